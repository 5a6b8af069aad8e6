//! How the images start, and what they say when something is missing.

use testcontainers::{ImageExt, core::WaitFor};

use crate::container::{ended, ending, with_tls};

#[tokio::test(flavor = "multi_thread")]
async fn an_allocator_does_not_serve_others_without_tls_unless_it_is_told_to() {
    let exit = testcontainers::core::wait::ExitWaitStrategy::new().with_exit_code(1);
    let request = with_tls().with_ready_conditions(vec![WaitFor::exit(exit)]);
    let (_, errors) = ended(request).await;
    for part in ["0.0.0.0:7373", "--tls-cert", "--insecure-plaintext"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_says_what_it_lacks() {
    let (_, errors) = ended(ending("lb-watcher", 2)).await;
    assert!(errors.contains("--cluster"), "{errors}");
    let (_, errors) = ended(ending("lb-watcher", 1).with_env_var("LB_WATCHER_CLUSTER", "a")).await;
    assert!(errors.contains("kubeconfig"), "{errors}");
    let (version, _) = ended(ending("lb-watcher", 0).with_cmd(["--version"])).await;
    assert_eq!(
        version.trim(),
        concat!("lb-watcher ", env!("CARGO_PKG_VERSION"))
    );
}
