//! Every RPC there is, and who it is for.

/// Who an RPC is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// What watchers do: a watcher for its own cluster, and admins.
    Watching,
    /// What changes nothing: a watcher about its own cluster, viewers and admins.
    Reading,
    /// Admins.
    Administering,
    /// Whoever has a role.
    Open,
}

macro_rules! rpcs {
    ($($name:ident = $path:literal => $access:ident,)*) => {
        /// An RPC. One that is missing here has no rule, and a test says so.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rpc {
            $($name,)*
        }

        impl Rpc {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The RPC that is called by this path of a URL.
            pub fn of_path(path: &str) -> Option<Self> {
                match path {
                    $($path => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Without its service, as metrics and history name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$name => $path,)*
                }
            }

            pub const fn access(self) -> Access {
                match self {
                    $(Self::$name => Access::$access,)*
                }
            }
        }
    };
}

rpcs! {
    Acquire = "/lballocator.v1.AllocatorService/Acquire" => Watching,
    Release = "/lballocator.v1.AllocatorService/Release" => Watching,
    Sync = "/lballocator.v1.AllocatorService/Sync" => Watching,
    Watch = "/lballocator.v1.AllocatorService/Watch" => Watching,
    Reserve = "/lballocator.v1.AdminService/Reserve" => Administering,
    Unreserve = "/lballocator.v1.AdminService/Unreserve" => Administering,
    ListReservations = "/lballocator.v1.AdminService/ListReservations" => Reading,
    Handover = "/lballocator.v1.AdminService/Handover" => Administering,
    ResolveConflict = "/lballocator.v1.AdminService/ResolveConflict" => Administering,
    DecommissionCluster = "/lballocator.v1.AdminService/DecommissionCluster" => Administering,
    RecommissionCluster = "/lballocator.v1.AdminService/RecommissionCluster" => Administering,
    ReplaceCluster = "/lballocator.v1.AdminService/ReplaceCluster" => Administering,
    PlanConfiguration = "/lballocator.v1.AdminService/PlanConfiguration" => Reading,
    ListDenials = "/lballocator.v1.AdminService/ListDenials" => Reading,
    ListPools = "/lballocator.v1.PoolService/ListPools" => Reading,
    ListAllocations = "/lballocator.v1.PoolService/ListAllocations" => Reading,
    GetAllocation = "/lballocator.v1.PoolService/GetAllocation" => Reading,
    ListHistory = "/lballocator.v1.PoolService/ListHistory" => Reading,
    ListConflicts = "/lballocator.v1.PoolService/ListConflicts" => Reading,
    ListClusters = "/lballocator.v1.PoolService/ListClusters" => Reading,
    Check = "/grpc.health.v1.Health/Check" => Open,
    HealthWatch = "/grpc.health.v1.Health/Watch" => Open,
    ServerReflectionInfo = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Open,
    ServerReflectionInfoAlpha =
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Open,
}

#[cfg(test)]
mod tests {
    use prost_types::FileDescriptorSet;
    use tonic::codegen::Bytes;

    use super::*;

    #[test]
    fn every_rpc_of_the_contract_has_a_rule() {
        let files = lb_proto::DESCRIPTOR_SET;
        let files: FileDescriptorSet = prost::Message::decode(Bytes::from_static(files)).unwrap();
        let mut paths = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let (service, method) = (service.name(), method.name());
                    paths.push(format!("/{}.{service}/{method}", file.package()));
                }
            }
        }
        assert!(paths.len() >= 12, "{paths:?}");
        for path in &paths {
            assert!(Rpc::of_path(path).is_some(), "{path} is missing in rpcs!");
        }
        for rpc in Rpc::ALL {
            assert_eq!(Rpc::of_path(rpc.path()), Some(*rpc));
            let ours = rpc.path().starts_with("/lballocator.");
            assert_eq!(ours, paths.iter().any(|path| path == rpc.path()), "{rpc:?}");
            assert_eq!(ours, rpc.access() != Access::Open, "{rpc:?}");
        }
    }
}
