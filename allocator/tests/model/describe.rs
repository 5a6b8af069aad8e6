//! A failing history in lines that can be read.

use std::fmt::{Debug, Formatter, Result};

use lb_allocator::engine::{Acquire, Command, Labels, PoolSpec, Reserve, Terms};

use crate::{
    history::{History, Step},
    pools::{Edit, Plan},
};

impl Debug for History {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{:?}", self.pools)?;
        for step in &self.steps {
            writeln!(f, "    {step:?}")?;
        }
        Ok(())
    }
}

impl Debug for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.specs().iter().try_for_each(|spec| {
            write!(f, "\n    pool {} {}", spec.name, list(&spec.addresses))?;
            if !spec.exclude.is_empty() {
                write!(f, " without {}", list(&spec.exclude))?;
            }
            rules(spec, f)
        })
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// The rules of a pool that are not at their default.
fn rules(spec: &PoolSpec, f: &mut Formatter<'_>) -> Result {
    let PoolSpec {
        name: _,
        addresses: _,
        exclude: _,
        namespaces,
        namespace_selector,
        service_selector,
        clusters,
        priority,
        auto_assign,
        avoid_buggy_ips,
        fenced,
        cooldown,
        sticky_for,
        max_per_namespace,
        max_per_cluster,
        disabled,
    } = spec;
    for (is_set, text) in [
        (namespaces.is_some(), format!("namespaces={namespaces:?}")),
        (clusters.is_some(), format!("clusters={clusters:?}")),
        (
            namespace_selector.is_some(),
            format!("namespaces={namespace_selector:?}"),
        ),
        (
            service_selector.is_some(),
            format!("services={service_selector:?}"),
        ),
        (priority.is_some(), format!("priority={priority:?}")),
        (!auto_assign, "on-request".to_owned()),
        (*avoid_buggy_ips, "no-buggy".to_owned()),
        (*fenced, "fenced".to_owned()),
        (!cooldown.is_zero(), format!("cooldown={cooldown:?}")),
        (!sticky_for.is_zero(), format!("sticky={sticky_for:?}")),
        (
            max_per_namespace.is_some(),
            format!("per-namespace={max_per_namespace:?}"),
        ),
        (
            max_per_cluster.is_some(),
            format!("per-cluster={max_per_cluster:?}"),
        ),
        (*disabled, "disabled".to_owned()),
    ] {
        if is_set {
            write!(f, " {text}")?;
        }
    }
    Ok(())
}

impl Debug for Edit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Move(index, owner) => write!(f, "address {index} goes to {owner:?}"),
            Self::Exclude(index) => write!(f, "address {index} is excluded or not any more"),
            Self::Rules(pool, spec) => {
                write!(f, "pool {pool} is now")?;
                rules(spec, f)
            }
            Self::Rename => f.write_str("names are shifted"),
        }
    }
}

impl Debug for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Run(command) => match &**command {
                Command::Acquire(acquire) => wish(acquire, f),
                Command::Release(release) => {
                    write!(f, "release {} uid={:?}", release.key, release.uid)
                }
                Command::Reserve(reserve) => {
                    let Reserve {
                        address,
                        key,
                        expires,
                        comment,
                    } = reserve;
                    let key = key.as_ref().map(ToString::to_string);
                    write!(
                        f,
                        "reserve {address} for {key:?} until now+{expires:?} {comment}"
                    )
                }
                Command::Unreserve(address) => write!(f, "unreserve {address}"),
                Command::Sync(_)
                | Command::Handover(_)
                | Command::Resolve(_)
                | Command::Decommission(_)
                | Command::Recommission(_)
                | Command::Attach(_)
                | Command::ReplaceCluster(_) => write!(f, "{command:?}"),
            },
            Self::Clock(millis) => write!(f, "clock {millis:+}"),
            Self::Configure(edits) => write!(f, "configure {edits:?}"),
            Self::RestartFromSnapshot => f.write_str("restart from the snapshot"),
            Self::RestartFromChanges => f.write_str("restart from the changes"),
        }
    }
}

fn wish(acquire: &Acquire, f: &mut Formatter<'_>) -> Result {
    let wish = &acquire.wish;
    let families = list(&wish.families);
    write!(f, "acquire {} {families} {:?}", acquire.key, wish.policy)?;
    if let Some(uid) = &acquire.uid {
        write!(f, " uid={uid}")?;
    }
    for (_, address) in wish.requested.iter() {
        if let Some(address) = address {
            write!(f, " asks={address}")?;
        }
    }
    if let Some(pool) = &wish.pool {
        write!(f, " pool={pool}")?;
    }
    if !wish.current.is_empty() {
        write!(f, " shows={}", list(&wish.current))?;
    }
    if let Some(address) = &acquire.cluster_ip {
        write!(f, " cluster-ip={address}")?;
    }
    if let Some(terms) = &wish.sharing {
        let Terms {
            key,
            permitted,
            ports,
            backend,
        } = &**terms;
        let ports: Vec<_> = ports.iter().copied().collect();
        write!(
            f,
            " shares={key} with {permitted:?} ports={} {backend:?}",
            list(&ports)
        )?;
    }
    let Labels { service, namespace } = &*wish.labels;
    if !wish.labels.is_empty() {
        write!(f, " labels={service:?} of namespace={namespace:?}")?;
    }
    Ok(())
}
