//! The subcommands, the classic log and the other ways to listen.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use integration_tests::{
    allocator::{Allocator, Options, run},
    binaries::workspace_binary,
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, release},
    scratch::Scratch,
    settings::Given,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use lb_proto::v1::allocator_service_client::AllocatorServiceClient;
use tonic::transport::Endpoint;

#[test]
fn it_is_cat_where_it_is_called_so() {
    let scratch = Scratch::new("cat").unwrap();
    let [cat, file] = ["cat", "file"].map(|name| scratch.path().join(name));
    symlink(workspace_binary("lb-allocator").unwrap(), &cat).unwrap();
    fs::write(&file, "one\n").unwrap();
    let output = Command::new(&cat)
        .args(["/nowhere", "-"])
        .arg(&file)
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"one\none\n");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("cat: /nowhere: "), "{errors}");
    assert_eq!(errors.lines().count(), 1);
}

#[tokio::test]
async fn check_config_explains_a_good_file() {
    let scratch = Scratch::new("config").unwrap();
    let file = scratch.path().join("pools.yaml");
    fs::write(
        &file,
        "pools: [{name: web, addresses: [192.0.2.0/29], exclude: [192.0.2.0], namespaces: [shop]}]",
    )
    .unwrap();
    let (status, out, errors) = run(&["check-config", file.to_str().unwrap()], &[]).await;
    assert!(status.success(), "{errors}");
    for part in ["web", "192.0.2.", "shop"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[tokio::test]
async fn check_config_says_what_is_wrong_and_where() {
    for (text, parts) in [
        ("pools: [{name: web}]", &["addresses", "line 1"][..]),
        (
            "pools: [{name: web, addresses: [192.0.2.300]}]",
            &["192.0.2.300"],
        ),
        (
            "pools: [{name: web, addresses: [192.0.2.9-192.0.2.1]}]",
            &["192.0.2.9-192.0.2.1"],
        ),
        (
            "pools: [{name: web, addresses: [192.0.2.1], adresses: []}]",
            &["adresses"],
        ),
        (
            "pools: [{name: a, addresses: [192.0.2.0/24]}, {name: b, addresses: [192.0.2.7]}]",
            &["192.0.2.7", "a", "b"],
        ),
        (
            "pools: [{name: a, addresses: [192.0.2.1]}, {name: a, addresses: [192.0.2.2]}]",
            &["a"],
        ),
        ("pools: {", &["line"]),
        ("pool: []", &["pool"]),
    ] {
        let scratch = Scratch::new("config").unwrap();
        let file = scratch.path().join("pools.yaml");
        fs::write(&file, text).unwrap();
        let (status, out, errors) = run(&["check-config", file.to_str().unwrap()], &[]).await;
        assert!(!status.success(), "{text}: {out}");
        for part in parts {
            assert!(errors.contains(part), "{text}: {part}: {errors}");
        }
        assert!(errors.contains("pools.yaml"), "{text}: {errors}");
    }
    let (status, _, errors) = run(&["check-config", "/nowhere/pools.yaml"], &[]).await;
    assert!(
        !status.success() && errors.contains("/nowhere/pools.yaml"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_bad_pools_file_stops_the_start_with_the_same_words() {
    let (status, errors) =
        Allocator::start_refused(Options::config("pools: [{name: web, addresses: [oops]}]")).await;
    assert!(!status.success());
    assert!(
        errors.contains("pools.yaml") && errors.contains("oops"),
        "{errors}"
    );
}

#[tokio::test]
async fn each_decision_is_one_classic_line_on_standard_output() {
    let list = "default:192.0.2.1";
    let mut allocator =
        Allocator::start(Options::ip_list(list).arg("--log-format").arg("classic")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("default", "svc1")).await.unwrap();
    client.acquire(acquire("default", "svc1")).await.unwrap();
    client
        .acquire(acquire("default", "svc2"))
        .await
        .unwrap_err();
    client.release(release("default", "svc1")).await.unwrap();
    let expected = [
        "ADDED IP OK namespace:default service:svc1 destination:192.0.2.1",
        "ADDED IP PENDING namespace:default service:svc2 reason:POOL_EXHAUSTED",
        "DELETED IP OK namespace:default service:svc1 destination:192.0.2.1",
    ];
    let process = allocator.process();
    let lines = eventually(DEADLINE, "three decisions are printed", async || {
        let output = process.output();
        let lines: Vec<String> = output
            .lines()
            .filter(|line| line.contains(" IP "))
            .map(str::to_owned)
            .collect();
        if lines.len() >= expected.len() {
            Ok(lines)
        } else {
            Err(output)
        }
    })
    .await;
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        let (time, decision) = line.split_once("] ").unwrap();
        assert_eq!(decision, expected);
        // [Tue 2018-07-17 21:25:02
        let shape: String = time
            .chars()
            .map(|c| {
                if c.is_ascii_digit() {
                    '0'
                } else if c.is_alphabetic() {
                    'a'
                } else {
                    c
                }
            })
            .collect();
        assert_eq!(shape, "[aaa 0000-00-00 00:00:00");
    }
}

#[tokio::test]
async fn times_of_the_classic_log_and_the_routes_are_utc_unless_tz_says_otherwise() {
    for (zone, ahead) in [(None, 0), (Some("XXX-14"), 14), (Some("YYY9"), -9)] {
        let mut options = Options::ip_list("web:192.0.2.1");
        if let Some(zone) = zone {
            options = options.env("TZ", zone);
        }
        let mut allocator = Allocator::start(options).await;
        let client = &mut allocator.client().await;
        client.acquire(acquire("web", "a")).await.unwrap();
        let line = eventually(DEADLINE, "the decision is logged", async || {
            let log = allocator.process().output();
            let line = log.split_once('\n').map(|(line, _)| line.to_owned());
            line.ok_or(log)
        })
        .await;
        let routes = fs::read_to_string(allocator.routes_file()).unwrap();
        let logged = line.split(['[', ']']).nth(1).unwrap();
        for text in [logged, routes.lines().next().unwrap()] {
            let told = DateTime::strptime("%a %Y-%m-%d %H:%M:%S", text);
            let told = told.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let expected = Timestamp::now() + SignedDuration::from_hours(ahead);
            let expected = expected.to_zoned(TimeZone::UTC).datetime();
            let apart = told.duration_since(expected).abs();
            assert!(apart < SignedDuration::from_mins(5), "{zone:?}: {text}");
        }
    }
}

#[tokio::test]
async fn with_pretty_each_decision_is_printed_with_its_fields() {
    let options = Options::ip_list("web:192.0.2.1").arg("--log-format");
    let mut allocator = Allocator::start(options.arg("pretty")).await;
    let client = &mut allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    eventually(DEADLINE, "the decision is logged", async || {
        let log = allocator.process().output();
        let fields = ["serving", "namespace", "web", "192.0.2.1"];
        if fields.iter().all(|field| log.contains(field)) {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
}

#[tokio::test]
async fn with_json_every_line_of_the_log_is_an_object() {
    let mut allocator = Allocator::start(
        Options::ip_list("web:192.0.2.1")
            .arg("--log-format")
            .arg("json"),
    )
    .await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    let process = allocator.process();
    let log = eventually(DEADLINE, "the decision is logged", async || {
        let log = format!("{}{}", process.output(), process.errors());
        if log.contains("192.0.2.1") {
            Ok(log)
        } else {
            Err(log)
        }
    })
    .await;
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn it_listens_on_a_unix_socket() {
    let scratch = Scratch::new("socket").unwrap();
    let url = format!("unix://{}", scratch.path().join("allocator.sock").display());
    let mut allocator = Allocator::start(Options::ip_list("web:192.0.2.1").listen(&url)).await;
    for _ in 0..2 {
        let channel = Endpoint::from_shared(url.clone())
            .unwrap()
            .connect()
            .await
            .unwrap();
        let answer = AllocatorServiceClient::new(channel)
            .acquire(acquire("web", "a"))
            .await
            .unwrap();
        assert_eq!(held(answer.get_ref()), ["192.0.2.1"]);
        let socket = scratch.path().join("allocator.sock");
        let mode = fs::metadata(socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else may connect");
        let files = fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(files, 1, "nothing else is left there");
        // A socket that a crash left behind is no obstacle.
        allocator.kill();
        allocator.start_again().await;
    }
}

#[tokio::test]
async fn it_does_not_start_without_what_it_needs_and_says_so() {
    for (options, part) in [
        (
            Options::ip_list("web:192.0.2.1")
                .arg("--log-format")
                .arg("loud"),
            "loud",
        ),
        (
            Options::ip_list("web:192.0.2.1").arg("--no-such-flag"),
            "--no-such-flag",
        ),
        (
            Options::ip_list("web:192.0.2.1").database("/nowhere/at/all.db"),
            "/nowhere/at/all.db",
        ),
        (
            Options::ip_list("web:192.0.2.1").listen("192.0.2.77:1"),
            "192.0.2.77:1",
        ),
        (
            Options::ip_list("web:192.0.2.1").listen("somewhere"),
            "somewhere",
        ),
    ] {
        let (status, errors) = Allocator::start_refused(options).await;
        assert!(!status.success(), "{part}");
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[tokio::test]
async fn every_flag_may_come_from_the_environment() {
    let mut options = Options::config("pools: [{name: web, addresses: [192.0.2.1]}]");
    options.given = Given::InEnvironment;
    let allocator = Allocator::start(options).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    eventually(DEADLINE, "the routes file is written", async || {
        fs::read_to_string(allocator.routes_file()).map_err(|error| error.to_string())
    })
    .await;
    assert!(allocator.database().exists());
}

#[tokio::test]
async fn a_reader_that_has_read_enough_is_no_failure() {
    let scratch = Scratch::new("pipe").unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(
        path("pools.yaml"),
        "pools: [{name: web, addresses: [192.0.2.1]}]",
    )
    .unwrap();
    fs::write(path("routes"), "a table\n").unwrap();
    let allocator = Allocator::start(Options::ip_list("mail:192.0.2.9")).await;
    let database = format!("sqlite://{}", allocator.database().display());
    let (pools, routes, folder, copy) = (
        path("pools.yaml"),
        path("routes"),
        path("certs"),
        path("copy.db"),
    );
    for (args, success) in [
        (&["check-config", &pools][..], true),
        (
            &["check-config", &pools, "--against", &allocator.url()],
            true,
        ),
        (&["routes", "--routes-file", &routes], true),
        (&["routes", "--allocator", &allocator.url()], true),
        (&["certs", "init", "--folder", &folder], true),
        (&["backup", &copy, "--database", &database], true),
        // Half a backup is none.
        (&["backup", "-", "--database", &database], false),
        (&["--help"], true),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(workspace_binary("lb-allocator").unwrap());
        let ended = command.args(args).stdout(writer).output().unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.success(), success, "{args:?}: {errors}");
        assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    }
}
