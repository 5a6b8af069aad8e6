//! What a binary is told, as flags or as the environment variables that stand
//! for them.

/// Where settings are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Given {
    /// `--log-format json`.
    #[default]
    AsFlags,
    /// `LB_ALLOCATOR_LOG_FORMAT=json`.
    InEnvironment,
}

/// Names of flags, without dashes, and values; none for a switch.
pub type Settings = Vec<(&'static str, Option<String>)>;

impl Given {
    /// Arguments and environment variables for these settings. `prefix` begins
    /// the variables' names, such as `LB_ALLOCATOR`.
    #[must_use]
    pub fn place(self, prefix: &str, settings: Settings) -> (Vec<String>, Vec<(String, String)>) {
        let (mut args, mut envs) = (Vec::new(), Vec::new());
        for (name, value) in settings {
            match self {
                Self::AsFlags => args.push(match value {
                    Some(value) => format!("--{name}={value}"),
                    None => format!("--{name}"),
                }),
                Self::InEnvironment => {
                    let name = name.to_uppercase().replace('-', "_");
                    let value = value.unwrap_or_else(|| "true".to_owned());
                    envs.push((format!("{prefix}_{name}"), value));
                }
            }
        }
        (args, envs)
    }
}
