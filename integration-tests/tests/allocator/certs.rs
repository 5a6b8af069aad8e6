//! `lb-allocator certs`: what people without cert-manager start from.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use integration_tests::{
    allocator::{Allocator, Options, run},
    scratch::Scratch,
};
use lb_tls::files::Files;

async fn certs(folder: &Path, args: &str) -> Result<String, String> {
    let folder = folder.to_str().unwrap();
    let mut all = vec!["certs"];
    all.extend(args.split_whitespace());
    all.extend(["--folder", folder]);
    let (status, out, errors) = run(&all, &[]).await;
    if status.success() {
        Ok(out)
    } else {
        Err(errors)
    }
}

fn files(folder: &Path, name: &str) -> Files {
    Files {
        cert: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
        ca: folder.join("ca.crt"),
    }
}

#[tokio::test]
async fn three_commands_make_all_that_a_cluster_needs() {
    let scratch = Scratch::new("certs").unwrap();
    let folder = scratch.path().join("made/by/it");
    let told = certs(&folder, "init").await.unwrap();
    assert!(told.contains("ca.crt") && told.contains("ca.key"), "{told}");
    certs(&folder, "server --dns lb.example.org --ip 192.0.2.1")
        .await
        .unwrap();
    certs(&folder, "client --cluster prod-eu").await.unwrap();
    certs(&folder, "client --role viewer").await.unwrap();
    certs(&folder, "client --role admin --cluster ops --days 1")
        .await
        .unwrap();
    let mode = |name: &str| {
        let metadata = fs::metadata(folder.join(name)).unwrap();
        format!("{:o}", metadata.permissions().mode() & 0o777)
    };
    for name in ["ca", "server", "watcher-prod-eu", "viewer", "admin-ops"] {
        assert_eq!(mode(&format!("{name}.key")), "600", "{name}");
        assert_eq!(mode(&format!("{name}.crt")), "644", "{name}");
    }
    assert_eq!(mode(""), "700");

    let server = files(&folder, "server");
    let pools = "pools: [{name: web, addresses: [192.0.2.0/29]}]";
    let allocator = Allocator::start(Options::config(pools).tls(server)).await;
    let url = allocator.url();
    let flags = |name: &str, ca: &str| {
        let Files {
            cert,
            key,
            ca: file,
        } = files(&folder, name);
        let (cert, key) = (cert.display(), key.display());
        let args = format!("--tls-cert {cert} --tls-key {key} {ca} {}", file.display());
        args.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    for (name, ca) in [("viewer", "--server-ca"), ("admin-ops", "--client-ca")] {
        let flags = flags(name, ca);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let args = [&["routes", "--allocator", &url][..], &flags].concat();
        let (status, table, errors) = run(&args, &[]).await;
        assert!(status.success() && table.contains("192.0.2.3"), "{errors}");

        let config = folder.join("pools.yaml");
        fs::write(&config, pools).unwrap();
        let config = config.to_str().unwrap();
        let args = [&["check-config", config, "--against", &url][..], &flags].concat();
        let (status, told, errors) = run(&args, &[]).await;
        assert!(status.success() && told.contains("stranded"), "{errors}");
    }
    let flags = flags("watcher-prod-eu", "--server-ca");
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let args = [&["routes", "--allocator", &url][..], &flags].concat();
    let (status, _, errors) = run(&args, &[]).await;
    assert!(!status.success());
    assert!(errors.contains("which is prod-eu"), "{errors}");
    let (status, _, errors) = run(&["routes", "--allocator", &url], &[]).await;
    assert!(!status.success() && errors.contains("https://"), "{errors}");
}

#[tokio::test]
async fn nothing_is_overwritten_and_what_is_missing_is_named() {
    let scratch = Scratch::new("certs").unwrap();
    let folder = scratch.path();
    let refused = certs(folder, "server").await.unwrap_err();
    assert!(refused.contains("certs init"), "{refused}");
    let refused = certs(folder, "client").await.unwrap_err();
    assert!(refused.contains("--cluster"), "{refused}");
    let refused = certs(folder, "client --cluster Not/A/Name")
        .await
        .unwrap_err();
    assert!(refused.contains("Not/A/Name"), "{refused}");

    for args in ["init", "server", "client --cluster a"] {
        certs(folder, args).await.unwrap();
    }
    let contents = || {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = contents();
    for (args, file) in [
        ("init", "ca.crt"),
        ("server", "server.crt"),
        ("client --cluster a", "watcher-a.crt"),
    ] {
        let refused = certs(folder, args).await.unwrap_err();
        assert!(refused.contains(file), "{args}: {refused}");
        assert_eq!(contents(), before, "{args}");
    }
    fs::remove_file(folder.join("server.crt")).unwrap();
    let refused = certs(folder, "server").await.unwrap_err();
    assert!(
        refused.contains("server.key"),
        "a key alone counts: {refused}"
    );
    assert!(!folder.join("server.crt").exists());
}
