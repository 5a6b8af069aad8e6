//! Who takes part in a run, beside users and faults.

/// Each of them in some of the runs.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// See `liar`.
    pub liar: bool,
    /// Another controller, and people, write addresses of pools into statuses.
    pub foreign_writer: bool,
    /// See `admin`.
    pub admin: bool,
    /// No pools file says which clusters there are.
    pub unknown_clusters: bool,
    /// Another cluster is started under the name of the first one.
    pub twin: bool,
    /// A cluster is lost, and made anew under its name.
    pub rebuilds: bool,
    /// The wall clock of the allocator may be wrong by a year.
    pub far_clock: bool,
}

impl Cast {
    pub fn random() -> Self {
        let one_of = |runs: u8| fastrand::u8(..runs) == 0;
        Self {
            liar: one_of(4),
            foreign_writer: one_of(3),
            admin: one_of(3),
            unknown_clusters: one_of(4),
            twin: one_of(4),
            rebuilds: one_of(4),
            far_clock: one_of(4),
        }
    }
}
