//! What `helm test` runs in a Pod, run here: as a viewer, with the certificate that
//! the chart made for that.

use integration_tests::{
    allocator::{Allocator, Options, run},
    control_plane::ControlPlane,
};
use serde_json::Value;

use crate::{
    commands::{Commands, documents, path, values},
    install::Installed,
};

#[tokio::test]
async fn helm_test_passes_as_a_viewer_and_fails_where_the_allocator_does_not_answer() {
    let control_plane = ControlPlane::shared().await;
    let commands = Commands::on(control_plane);
    let installed = Installed::new(&commands, &["--values", &values("generated")]);
    let Installed { namespace, release } = &installed;
    let args = ["hooks", release, "-n", namespace];
    let hooks = documents(&commands.helm_get(&args));
    let [test] = &hooks[..] else {
        panic!("{hooks:?}")
    };
    let secret = &test["spec"]["volumes"][0]["secret"]["secretName"];
    assert_eq!(secret, &Value::from(format!("{release}-viewer-tls")));

    let server = installed.files(&commands, "allocator-tls");
    let options = Options::ip_list("default:192.0.2.1").tls(server.files());
    let allocator = Allocator::start(options.arg("--client-identity=common-name")).await;
    let there = format!("https://{release}-allocator.{namespace}.svc:7373");
    let here = allocator.url().replace("127.0.0.1", "localhost");
    let viewer = installed.files(&commands, "viewer-tls");
    let files = viewer.files();
    let folder = path(files.ca.parent().unwrap());
    let arguments = |url: &str| -> Vec<String> {
        let all = test["spec"]["containers"][0]["args"].as_array().unwrap();
        let all = all.iter().map(|argument| {
            let argument = argument.as_str().unwrap();
            argument
                .replace(&there, url)
                .replace("/etc/lb-allocator/tls", folder)
        });
        all.collect()
    };
    let run_test = async |url: &str| {
        let arguments = arguments(url);
        assert!(arguments.contains(&format!("--allocator={url}")));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        run(&arguments, &[]).await
    };
    let (status, out, errors) = run_test(&here).await;
    assert!(status.success(), "{out}{errors}");
    drop(allocator);
    let (status, ..) = run_test(&here).await;
    assert!(!status.success());
}
