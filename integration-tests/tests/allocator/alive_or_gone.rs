//! A process whose any part has ended ends: it never looks healthy and does nothing.

use integration_tests::{
    allocator::{Allocator, Options},
    certificates::Authority,
    secret::Secret,
};

#[tokio::test]
async fn whichever_task_ends_or_panics_the_process_ends_and_names_it() {
    if !cfg!(debug_assertions) {
        // A release build has no way to make a task end.
        return;
    }
    let authority = Authority::new("test").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let pools = "pools: [{name: web, addresses: [192.0.2.1]}]";
    for task in [
        "signals",
        "silence",
        "routes file",
        "admin",
        "acceptor",
        "certificates",
        "pools file",
        "writer",
        "denials",
    ] {
        for fault in ["panic", "end"] {
            let options = Options::config(pools).tls(server.files());
            let options = options.env("LB_TEST_FAULT", &format!("{fault}:{task}"));
            let (status, errors) = Allocator::start_refused(options).await;
            assert_eq!(status.code(), Some(1), "{fault} {task}: {errors}");
            let told: Vec<_> = errors
                .lines()
                .filter(|line| line.contains("ERROR"))
                .collect();
            let [line] = told[..] else {
                panic!("{fault} {task}: {errors}")
            };
            assert!(line.contains(&format!("task {task:?}")), "{line}");
            assert!(line.contains("panicked") == (fault == "panic"), "{line}");
        }
    }
}
