//! A release from its first day to its last.

use std::fs;

use integration_tests::{control_plane::ControlPlane, namespace::random_name, scratch::Scratch};
use lb_tls::files::Files;
use serde_json::Value;

use crate::commands::{Commands, values};

/// A release in a namespace of its own.
pub struct Installed {
    pub namespace: String,
    pub release: String,
}

/// The files of a Secret, as a Pod gets them.
pub struct Mounted(Scratch);

impl Mounted {
    pub fn files(&self) -> Files {
        let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| self.0.path().join(name));
        Files { cert, key, ca }
    }
}

impl Installed {
    pub fn new(commands: &Commands, more: &[&str]) -> Self {
        let this = Self {
            namespace: random_name("system"),
            release: random_name("lb"),
        };
        this.helm(
            commands,
            "install",
            &[more, &["--create-namespace"]].concat(),
        );
        this
    }

    fn helm(&self, commands: &Commands, verb: &str, more: &[&str]) -> String {
        let args = [&["--namespace", self.namespace.as_str()], more].concat();
        commands.helm(verb, &self.release, &args)
    }

    fn get(&self, commands: &Commands, kind: &str, name: &str) -> Value {
        let name = format!("{}-{name}", self.release);
        let args = ["get", kind, &name, "-n", &self.namespace, "-o", "json"];
        serde_json::from_str(&commands.kubectl(&args, "")).unwrap()
    }

    fn secret(&self, commands: &Commands, name: &str) -> Value {
        self.get(commands, "secret", name)["data"].clone()
    }

    /// What a Secret has in it, in files.
    pub fn files(&self, commands: &Commands, secret: &str) -> Mounted {
        let folder = Scratch::new("mounted").unwrap();
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let template = format!("go-template={{{{index .data \"{name}\" | base64decode}}}}");
            let secret = format!("{}-{secret}", self.release);
            let args = [
                "get",
                "secret",
                &secret,
                "-n",
                &self.namespace,
                "-o",
                &template,
            ];
            fs::write(folder.path().join(name), commands.kubectl(&args, "")).unwrap();
        }
        Mounted(folder)
    }

    /// All that is labelled as its own.
    fn objects(&self, commands: &Commands) -> Vec<String> {
        let label = format!("app.kubernetes.io/instance={}", self.release);
        let kinds = "all,secret,configmap,pvc,serviceaccount,role,rolebinding,networkpolicy,pdb,\
                     clusterrole,clusterrolebinding";
        let args = [
            "get",
            kinds,
            "-l",
            &label,
            "-n",
            &self.namespace,
            "-o",
            "name",
        ];
        let listed = commands.kubectl(&args, "");
        listed.lines().map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn what_is_generated_is_kept_pools_restart_nothing_and_the_database_outlives_the_release() {
    let commands = Commands::on(ControlPlane::shared().await);
    let file = values("generated");
    let installed = Installed::new(&commands, &["--values", &file]);
    let secret = |name: &str| installed.secret(&commands, name);
    let generation =
        |name: &str| installed.get(&commands, "deployment", name)["metadata"]["generation"].clone();
    let names = ["ca", "allocator-tls", "watcher-tls", "admin-tls"];
    let before = names.map(secret);
    let generations = ["allocator", "watcher"].map(generation);

    let pools = "allocator.config.pools[0].addresses={203.0.113.1}";
    let more = [
        "--values",
        &file,
        "--set",
        pools,
        "--set",
        "tls.clusters={new}",
    ];
    installed.helm(&commands, "upgrade", &more);
    assert_eq!(names.map(secret), before);
    assert_eq!(["allocator", "watcher"].map(generation), generations);
    let config = installed.get(&commands, "configmap", "allocator")["data"]["pools.yaml"].clone();
    assert!(config.as_str().unwrap().contains("203.0.113.1"), "{config}");
    assert_eq!(secret("watcher-tls-new")["ca.crt"], before[0]["tls.crt"]);

    let more = [
        "--values",
        &file,
        "--set",
        "tls.dnsNames={other.example.org}",
    ];
    installed.helm(&commands, "upgrade", &more);
    let after = names.map(secret);
    assert_ne!(after[1]["tls.crt"], before[1]["tls.crt"]);
    assert_eq!(after[1]["ca.crt"], before[1]["ca.crt"]);
    let others = |all: &[Value; 4]| [all[0].clone(), all[2].clone(), all[3].clone()];
    assert_eq!(others(&after), others(&before));

    let name = format!("{}-watcher-tls", installed.release);
    commands.kubectl(&["delete", "secret", &name, "-n", &installed.namespace], "");
    installed.helm(&commands, "upgrade", &["--values", &file]);
    let renewed = secret("watcher-tls");
    assert_ne!(renewed["tls.crt"], before[2]["tls.crt"]);
    assert_eq!(renewed["ca.crt"], before[0]["tls.crt"]);

    installed.helm(&commands, "uninstall", &[]);
    let release = &installed.release;
    let kept = [
        format!("secret/{release}-ca"),
        format!("persistentvolumeclaim/{release}-allocator"),
    ];
    assert_eq!(installed.objects(&commands), kept);
    installed.helm(&commands, "install", &["--values", &file]);
    assert_eq!(secret("ca"), before[0]);
    assert_eq!(secret("allocator-tls")["ca.crt"], before[0]["tls.crt"]);
}
