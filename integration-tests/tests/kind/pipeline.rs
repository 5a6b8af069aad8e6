//! What another project copies into its pipeline does what it says.

use integration_tests::{
    commands::script,
    eventually::{DEADLINE, eventually},
    images::Images,
    kind::{Cluster, node_image, outside::Outside},
    namespace::random_name,
};

use crate::{
    ALONE, hello,
    pair::{chart, show},
};

#[tokio::test(flavor = "multi_thread")]
async fn services_in_another_projects_pipeline_answer_wherever_the_cluster_is_reached_from() {
    let _alone = ALONE.lock().await;
    let (image, images) = tokio::join!(node_image(), Images::build());
    let cluster = Cluster::called(&random_name("lb-pipeline"));
    let mut path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    for tool in cluster.tools() {
        path.insert(0, tool.parent().unwrap().to_owned());
    }
    let archives = images.ours().map(|archive| archive.display().to_string());
    script("deploy/examples/pipeline/kind-with-addresses")
        .args([cluster.name()])
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("KIND_IMAGE", &image)
        .env("LB_IMAGES", archives.join(" "))
        .env("LB_CHART", chart())
        .gives()
        .await;

    cluster.load(&images.hello()).await;
    hello::deploy(&cluster, "pipeline").await;
    hello::expose(&cluster, "hello").await;
    let address = cluster.address("hello").await;
    let outside = Outside::start(&image).await;
    let answer = eventually(
        DEADLINE,
        "it answers in the network of the nodes",
        async || {
            outside
                .curl(&address)
                .await
                .map_err(|error| format!("{error:#}"))
        },
    )
    .await;
    assert!(answer.starts_with(&hello::greeting("pipeline")), "{answer}");
    show(
        &format!("curl http://{address}/   # without a route to it"),
        &answer,
    );
    let url = format!("http://{address}/");
    let here = integration_tests::commands::command("curl")
        .args(["--silent", "--show-error", "--max-time", "5", &url])
        .gives()
        .await;
    assert!(here.starts_with(&hello::greeting("pipeline")), "{here}");
}
