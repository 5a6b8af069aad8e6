//! Who may call what. Pure: certificates come in as text, decisions go out as
//! values.
//!
//! ```text
//!   certificate ─► identity ─► role ──┐
//!   request ─► rpc and its access ────┼─► decide ─► yes, or Denied
//!              cluster it is about ───┘
//! ```
//!
//! Start reading at [`decide()`].

mod decide;
mod decommissioned;
mod identity;
mod rpc;

pub use self::{
    decide::{Denied, Target, decide},
    decommissioned::Decommissioned,
    identity::{Caller, Certificate, NoIdentity, Role, Scheme},
    rpc::{Access, Rpc},
};
