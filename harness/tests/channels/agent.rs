//! L1's guest agent against a fake one.

use std::time::Duration;

use harness::guest::{Agent, Exec, Exit, Guest, GuestError};
use serde_json::json;

use crate::fake::{Act, PLENTY, SHORT, Server, line};
use crate::guest::{guest, synced};

fn agent(server: &Server) -> Agent {
    Agent::new(server.socket.clone(), None).with_answer_limit(PLENTY)
}

fn echo(text: &str) -> Exec {
    Exec::new("echo", [text], PLENTY)
}

async fn assert_works(agent: &Agent) {
    let output = agent.exec(echo("still here")).await.unwrap();
    assert_eq!(output.stdout_text(), r#"["still here"]"#);
}

#[tokio::test]
async fn a_command_leaves_streams_and_exit_code_or_signal() {
    let server = guest(|_| None);
    let agent = agent(&server);
    let output = agent.exec(Exec::new("fails", ["x"], PLENTY)).await.unwrap();
    assert_eq!(output.exit, Exit::Code(3));
    assert_eq!(
        (output.stdout_text(), output.stderr_text()),
        ("some".into(), "out of cheese".into())
    );
    let output = agent
        .exec(Exec::new("killed", ["x"], PLENTY))
        .await
        .unwrap();
    assert_eq!(output.exit, Exit::Signal(9));
    let mut cat = Exec::new("cat", ["-"], PLENTY);
    cat.input = Some(vec![0, 159, 146, 150, b'\n']);
    assert_eq!(
        agent.exec(cat).await.unwrap().stdout,
        [0, 159, 146, 150, b'\n']
    );
    let error = agent
        .run(Exec::new("fails", ["x"], PLENTY))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`fails x` in pve ended with exit code 3: out of cheese"
    );
    assert_eq!(
        server
            .names()
            .iter()
            .filter(|name| *name == "guest-sync-delimited")
            .count(),
        1
    );
}

#[tokio::test]
async fn output_that_was_cut_short_is_an_error() {
    let server = guest(|_| None);
    let error = agent(&server)
        .exec(Exec::new("chatty", ["x"], PLENTY))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("16 MiB"), "{error}");
}

#[tokio::test]
async fn a_command_that_does_not_end_is_late_and_harms_no_other() {
    let server = guest(|_| None);
    let agent = agent(&server);
    let error = agent
        .exec(Exec::new("endless", ["x"], SHORT))
        .await
        .unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    assert_works(&agent).await;
    assert!(
        server.calls().iter().all(|call| call.connection == 1),
        "the connection was kept"
    );
}

#[tokio::test]
async fn files_of_any_size_and_content_survive_and_are_closed() {
    let server = guest(|_| None);
    let agent = agent(&server);
    let content: Vec<u8> = (0..500_000u32).map(|n| (n % 251) as u8).collect();
    for content in [&content[..], &content[..196_608], b"", b"\0\xff\n"] {
        agent.write_file("/etc/file", content).await.unwrap();
        assert!(agent.read_file("/etc/file").await.unwrap() == content);
    }
    let error = agent.read_file("/not/there").await.unwrap_err();
    assert!(matches!(error, GuestError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
    let names = server.names();
    let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    assert_eq!(count("guest-file-close"), 8);
}

#[tokio::test]
async fn a_file_is_closed_when_reading_fails_and_when_the_caller_goes_away() {
    let mut failures = 0;
    let server = guest(move |call| {
        (call.name == "guest-file-read").then(|| {
            failures += 1;
            match failures {
                1 => vec![Act::Refuse("input/output error")],
                _ => vec![
                    Act::Wait(SHORT * 5),
                    Act::Return(json!({"count": 0, "eof": true, "buf-b64": ""})),
                ],
            }
        })
    });
    let agent = agent(&server);
    agent.write_file("/f", b"x").await.unwrap();
    agent.read_file("/f").await.unwrap_err();
    agent.ping().await.unwrap();
    assert_eq!(
        server
            .names()
            .iter()
            .filter(|name| *name == "guest-file-close")
            .count(),
        2
    );
    assert!(
        tokio::time::timeout(SHORT * 3, agent.read_file("/f"))
            .await
            .is_err()
    );
    agent.ping().await.unwrap();
    assert_eq!(
        server
            .names()
            .iter()
            .filter(|name| *name == "guest-file-close")
            .count(),
        3
    );
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_not_taken_for_the_next_ones() {
    let mut stalled = None;
    let server = guest(move |call| match call.name.as_str() {
        "guest-exec" if stalled.is_none() => {
            stalled = Some(call.id.clone());
            Some(Vec::new())
        }
        // QEMU gives the late answer to the client that is there by then, cut in half by the
        // hang-up, then whole, and once more behind the synchronisation.
        "guest-sync-delimited" if call.connection == 2 => {
            let late = json!({"return": {"pid": 666}, "id": stalled});
            let old = Act::Raw(b"\xff{\"return\": 12345}\n".to_vec());
            Some(vec![
                Act::Raw(b"\": {\"pid\": 665}}\n".to_vec()),
                line(late.clone()),
                old,
                synced(call),
                line(late),
            ])
        }
        _ => None,
    });
    let impatient = agent(&server).with_answer_limit(SHORT);
    let error = impatient.exec(echo("lost")).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    assert_works(&agent(&server)).await;
}

#[tokio::test]
async fn a_late_answer_on_the_same_agent_is_dropped_and_a_duplicate_too() {
    let mut first = true;
    let server = guest(move |call| match call.name.as_str() {
        "guest-exec" if first => {
            first = false;
            Some(Vec::new())
        }
        "guest-ping" => Some(vec![
            Act::Return(json!({})),
            Act::Return(json!({"pid": 666})),
            line(json!({"return": {"pid": 667}, "id": 1})),
        ]),
        _ => None,
    });
    let impatient = agent(&server).with_answer_limit(SHORT);
    impatient.exec(echo("lost")).await.unwrap_err();
    let agent = impatient.with_answer_limit(PLENTY);
    for _ in 0..5 {
        agent.ping().await.unwrap();
        assert_works(&agent).await;
    }
}

#[tokio::test]
async fn an_agent_that_dies_breaks_the_call_under_way_and_the_next_one_reconnects() {
    let mut died = false;
    let server = guest(move |call| {
        (call.name == "guest-exec-status" && !died).then(|| {
            died = true;
            vec![Act::HangUp]
        })
    });
    let agent = agent(&server);
    let error = agent.exec(echo("lost")).await.unwrap_err();
    assert!(matches!(error, GuestError::Broken { .. }), "{error}");
    assert_works(&agent).await;
    assert_eq!(server.calls().last().unwrap().connection, 2);
}

#[tokio::test]
async fn an_agent_that_died_between_two_calls_is_connected_to_again() {
    let server = guest(|call| {
        (call.name == "guest-ping").then(|| vec![Act::Return(json!({})), Act::HangUp])
    });
    let agent = agent(&server);
    agent.ping().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_works(&agent).await;
}

#[tokio::test]
async fn a_port_that_the_guest_closes_breaks_the_call_at_once() {
    let server = guest(|call| (call.name == "guest-ping" && call.connection == 1).then(Vec::new));
    let agent = agent(&server);
    let closer = agent.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SHORT / 2).await;
        closer.port_changed(false);
    });
    let start = std::time::Instant::now();
    let error = agent.ping().await.unwrap_err();
    assert!(matches!(error, GuestError::Broken { .. }), "{error}");
    assert!(start.elapsed() < PLENTY / 2);
    agent.port_changed(true);
    assert_works(&agent).await;
}

#[tokio::test]
async fn readiness_is_tried_with_a_connection_each() {
    // The firmware's time: nothing answers the first two connections.
    let server = guest(|call| (call.connection < 3).then(Vec::new));
    let agent = agent(&server).with_answer_limit(SHORT);
    agent.wait_ready(PLENTY).await.unwrap();
    assert_works(&agent).await;
    assert!(server.calls().last().unwrap().connection >= 3);
}

#[tokio::test]
async fn readiness_waits_for_the_port_to_open_when_it_is_known_to_be_closed() {
    let server = guest(|_| None);
    let agent = agent(&server);
    agent.port_changed(false);
    let opener = agent.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SHORT).await;
        opener.port_changed(true);
    });
    let start = std::time::Instant::now();
    agent.wait_ready(PLENTY).await.unwrap();
    assert!(start.elapsed() >= SHORT && start.elapsed() < PLENTY / 2);
    assert_eq!(server.names(), ["guest-sync-delimited", "guest-ping"]);
}

#[tokio::test]
async fn an_agent_that_never_answers_is_not_waited_for_longer_than_the_limit() {
    let server = guest(|_| Some(Vec::new()));
    let error = agent(&server).wait_ready(SHORT).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    let nowhere = Agent::new("/not/a/socket".into(), None);
    let error = nowhere.ping().await.unwrap_err();
    assert!(matches!(error, GuestError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_harm_the_next() {
    let server = guest(|call| {
        (call.name == "guest-ping").then(|| vec![Act::Wait(SHORT), Act::Return(json!({}))])
    });
    let agent = agent(&server);
    for wait in [1, 10, 30] {
        let call = tokio::time::timeout(Duration::from_millis(wait), agent.ping());
        assert!(call.await.is_err());
        let call = tokio::time::timeout(Duration::from_millis(wait), agent.exec(echo("gone")));
        let _ = call.await;
        assert_works(&agent).await;
    }
}

#[tokio::test]
async fn concurrent_commands_do_not_mix() {
    let server = guest(|_| None);
    let agent = agent(&server);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        let agent = agent.clone();
        calls.spawn(async move {
            let output = agent.exec(echo(&number.to_string())).await.unwrap();
            assert_eq!(output.stdout_text(), format!("[\"{number}\"]"));
            agent.wait_ready(PLENTY).await.unwrap();
        });
    }
    while let Some(result) = calls.join_next().await {
        result.unwrap();
    }
}

#[tokio::test]
async fn the_boot_id_is_read_without_its_line_end() {
    let server = guest(|_| None);
    let agent = agent(&server);
    agent
        .write_file("/proc/sys/kernel/random/boot_id", b"7c1e\n")
        .await
        .unwrap();
    assert_eq!(agent.boot_id().await.unwrap(), "7c1e");
}
