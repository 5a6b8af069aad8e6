//! The life of two clusters of one allocator.

use crate::{
    ALONE,
    happenings::{
        its_node_starts_again, the_acting_watcher_is_deleted, the_allocator_is_deleted,
        the_releases_are_uninstalled, the_releases_are_upgraded,
    },
    manifests,
    pair::{Pair, show},
};

#[tokio::test(flavor = "multi_thread")]
async fn services_of_two_clusters_answer_on_addresses_that_outlive_everything() {
    let _alone = ALONE.lock().await;
    let mut pair = Pair::create().await;
    pair.install().await;
    pair.all_is_well("hello").await;
    routes_are_shown(&pair).await;
    pair.show_services().await;

    the_allocator_is_deleted(&pair).await;
    pair.all_is_well("after-the-allocator-s-pod").await;
    the_acting_watcher_is_deleted(&pair).await;
    pair.all_is_well("after-the-acting-watcher-s-pod").await;
    the_releases_are_upgraded(&pair).await;
    pair.all_is_well("after-an-upgrade").await;
    its_node_starts_again(&pair).await;
    pair.all_is_well("after-a-node").await;
    pair.show_services().await;

    the_releases_are_uninstalled(&pair).await;
    pair.nobody_moved().await;
    pair.all_answer().await;

    manifests::take_over(&pair).await;
}

/// Also where the allocator's port asks for certificates.
async fn routes_are_shown(pair: &Pair) {
    for asked in [["cat", "/routes"], ["lb-allocator", "routes"]] {
        let exec = ["-n", "lb-system", "exec", "deploy/lb-allocator", "--"];
        let exec = pair.clusters["a"].kubectl(exec).args(asked);
        let routes = exec.gives().await;
        for address in pair.held.values() {
            assert!(routes.contains(address), "{routes}");
        }
        let asked = asked.join(" ");
        show(
            &format!("kubectl -n lb-system exec deploy/lb-allocator -- {asked}"),
            &routes,
        );
    }
}
