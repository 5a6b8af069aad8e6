//! Where every RPC is asked who calls: once before its message is read, and once
//! more when it is known which cluster it is about.

use std::sync::Arc;

use http::Extensions;
use tonic::{Request, Status};

use super::fault;
use crate::{
    auth::{Caller, Decommissioned, Rpc, Target, decide},
    clock::Clock,
    connections::Peer,
    denials::Denials,
};

/// Whether callers show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who reaches the port may do everything.
    Everybody,
    /// Only what the certificate says.
    Certificates,
}

/// See the module; a clone is the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    trust: Trust,
    decommissioned: Decommissioned,
    denials: Denials,
    clock: Clock,
}

impl Gate {
    pub const fn new(
        trust: Trust,
        decommissioned: Decommissioned,
        denials: Denials,
        clock: Clock,
    ) -> Self {
        Self {
            trust,
            decommissioned,
            denials,
            clock,
        }
    }

    /// Who sent it.
    pub fn caller(&self, extensions: &Extensions) -> Caller {
        match self.trust {
            Trust::Everybody => Caller::Trusted,
            Trust::Certificates => extensions
                .get::<Option<Peer>>()
                .and_then(Option::as_ref)
                .map_or(Caller::Unknown, |peer| {
                    Caller::Certified(Arc::clone(&peer.certificate))
                }),
        }
    }

    /// Takes a request apart.
    pub fn enter<T>(&self, request: Request<T>) -> (Caller, T) {
        (self.caller(request.extensions()), request.into_inner())
    }

    /// Lets the caller pass, or records that it does not.
    pub fn admit(&self, caller: &Caller, rpc: Rpc, target: Target<'_>) -> Result<(), Status> {
        // As the handshake has it, which looks at the end of a certificate, too.
        let wall = self.clock.wall();
        let decided = decide(caller, rpc, target, &self.decommissioned, wall);
        decided.map_err(|denied| {
            let now = self.clock.now();
            self.denials.note(caller, rpc, target, &denied, now);
            fault::denied(caller, rpc, target, &denied)
        })
    }
}
