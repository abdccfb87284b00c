//! QMP against a fake QEMU.

use std::time::Duration;

use harness::machine::qmp::{Qmp, QmpError, QmpEvent, QmpSignal};
use harness::machine::transcript::Transcript;
use qapi::qmp::{query_status, stop, system_reset};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use crate::fake::{Act, Call, PLENTY, SHORT, Server, line};

fn greeting() -> Value {
    json!({"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""},
        "capabilities": ["oob"]}})
}

/// A QEMU that answers `query-status`, and everything else as the test says.
fn qemu(mut play: impl FnMut(&Call) -> Vec<Act> + Send + 'static) -> Server {
    Server::start(Some(greeting()), move |call| match call.name.as_str() {
        "qmp_capabilities" => vec![Act::Return(json!({}))],
        "query-status" => vec![Act::Return(json!({"running": true, "status": "running"}))],
        _ => play(call),
    })
}

async fn connect(server: &Server) -> Qmp {
    Qmp::connect(&server.socket, None, PLENTY).await.unwrap()
}

/// The next event, or `None` when the stream has ended.
async fn next(events: &mut Receiver<QmpEvent>) -> Option<QmpEvent> {
    let next = tokio::time::timeout(PLENTY, events.recv()).await;
    next.expect("an event or the end of events").ok()
}

async fn assert_works(qmp: &Qmp) {
    let status = qmp.execute(query_status {}, PLENTY).await.unwrap();
    assert!(status.running);
}

#[tokio::test]
async fn commands_are_typed_and_a_refusal_leaves_the_connection_as_it_was() {
    let server = qemu(|_| vec![Act::Refuse("not now")]);
    let qmp = connect(&server).await;
    let error = qmp.execute(stop {}, PLENTY).await.unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused stop: not now");
    assert_works(&qmp).await;
}

#[tokio::test]
async fn an_event_that_nobody_knows_is_data_and_closes_nothing() {
    let server = qemu(|call| {
        let time = json!({"seconds": 1700000000, "microseconds": 250000});
        vec![
            line(
                json!({"event": "FLUX_CAPACITOR", "data": {"jigawatts": 1.21}, "timestamp": time}),
            ),
            line(json!({"event": "SHUTDOWN", "timestamp": time,
                "data": {"guest": true, "reason": "a-reason-of-tomorrow"}})),
            Act::Return(json!({})),
            line(json!({"event": "VSERPORT_CHANGE", "timestamp": time,
                "data": {"open": true, "id": call.name}})),
        ]
    });
    let qmp = connect(&server).await;
    let mut events = qmp.events();
    qmp.execute(stop {}, PLENTY).await.unwrap();
    let event = next(&mut events).await.unwrap();
    assert_eq!(event.name, "FLUX_CAPACITOR");
    assert_eq!(event.data["jigawatts"], 1.21);
    assert!((event.seconds - 1_700_000_000.25).abs() < 0.001);
    assert_eq!(event.signal(), None);
    let shutdown = QmpSignal::Shutdown {
        guest: true,
        reason: "a-reason-of-tomorrow".to_owned(),
    };
    assert_eq!(next(&mut events).await.unwrap().signal(), Some(shutdown));
    let port = QmpSignal::PortChanged {
        id: "stop".to_owned(),
        open: true,
    };
    assert_eq!(next(&mut events).await.unwrap().signal(), Some(port));
    assert_works(&qmp).await;
}

#[tokio::test]
async fn events_before_anyone_listens_are_kept_for_the_first_who_does() {
    let server = qemu(|_| vec![line(json!({"event": "RESUME"})), Act::Return(json!({}))]);
    let qmp = connect(&server).await;
    qmp.execute(stop {}, PLENTY).await.unwrap();
    let event = next(&mut qmp.events()).await.unwrap();
    assert_eq!(event.signal(), Some(QmpSignal::Resume));
}

#[tokio::test]
async fn a_time_out_ends_the_connection_and_later_calls_say_so() {
    let server = qemu(|_| Vec::new());
    let qmp = connect(&server).await;
    let mut events = qmp.events();
    let error = qmp.execute(stop {}, SHORT).await.unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
    let error = qmp.execute(query_status {}, PLENTY).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the QMP connection is closed (stop was not answered in time), so query-status was not done"
    );
    assert!(qmp.closed().is_some());
    assert!(
        next(&mut events).await.is_none(),
        "the stream of events ends"
    );
    assert!(
        next(&mut qmp.events()).await.is_none(),
        "a new one has ended"
    );
}

#[tokio::test]
async fn a_qemu_that_dies_closes_the_call_under_way_and_those_that_wait() {
    let server = qemu(|_| vec![Act::Wait(SHORT), Act::HangUp]);
    let qmp = connect(&server).await;
    let (first, second) = tokio::join!(
        qmp.execute(stop {}, PLENTY),
        qmp.execute(system_reset {}, PLENTY)
    );
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert!(matches!(error, QmpError::Closed { .. }), "{error}");
        assert!(error.to_string().contains("QEMU hung up"), "{error}");
    }
}

#[tokio::test]
async fn a_qemu_that_dies_between_two_calls_is_noticed() {
    let server = qemu(|_| vec![Act::Return(json!({})), Act::HangUp]);
    let qmp = connect(&server).await;
    let mut events = qmp.events();
    qmp.execute(stop {}, PLENTY).await.unwrap();
    assert!(next(&mut events).await.is_none());
    let error = qmp.execute(stop {}, PLENTY).await.unwrap_err();
    assert!(matches!(error, QmpError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_no_harm() {
    let server = qemu(|_| vec![Act::Wait(SHORT), Act::Return(json!({}))]);
    let qmp = connect(&server).await;
    let call = qmp.execute(stop {}, PLENTY);
    assert!(tokio::time::timeout(SHORT / 3, call).await.is_err());
    assert_works(&qmp).await;
}

#[tokio::test]
async fn answers_find_their_callers_and_an_answer_of_another_id_is_passed_over() {
    let server = qemu(|call| {
        vec![
            line(json!({"return": {"running": false, "status": "shutdown"}, "id": 999_999})),
            Act::Return(call.args["number"].clone()),
        ]
    });
    let qmp = connect(&server).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let qmp = qmp.clone();
        calls.spawn(async move {
            let answer = qmp.execute_untyped("x-echo", json!({"number": number}), PLENTY);
            assert_eq!(answer.await.unwrap(), number);
        });
    }
    while let Some(result) = calls.join_next().await {
        result.unwrap();
    }
}

#[tokio::test]
async fn an_answer_of_another_shape_is_an_error_of_that_call_only() {
    let server = qemu(|_| vec![Act::Return(json!([1, 2]))]);
    let qmp = connect(&server).await;
    let error = qmp
        .execute(qapi::qmp::query_name {}, PLENTY)
        .await
        .unwrap_err();
    assert!(matches!(error, QmpError::Answer { .. }), "{error}");
    assert_works(&qmp).await;
}

#[tokio::test]
async fn a_server_that_is_not_qemu_or_says_nothing_is_named() {
    let server = Server::start(Some(json!({"hello": "there"})), |_| Vec::new());
    let error = Qmp::connect(&server.socket, None, PLENTY)
        .await
        .unwrap_err();
    assert!(matches!(error, QmpError::Negotiation { .. }), "{error}");

    let server = Server::start(None, |_| Vec::new());
    let error = Qmp::connect(&server.socket, None, SHORT).await.unwrap_err();
    assert!(error.to_string().contains("another client"), "{error}");
}

#[tokio::test]
async fn a_socket_may_come_late_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let error = Qmp::connect(&socket, None, SHORT).await.unwrap_err();
    assert!(matches!(error, QmpError::NotThere(_)), "{error}");

    let server = qemu(|_| Vec::new());
    let real = server.socket.clone();
    let link = socket.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        std::os::unix::fs::symlink(real, link).unwrap();
    });
    let qmp = Qmp::connect(&socket, None, PLENTY).await.unwrap();
    assert_works(&qmp).await;
}

#[tokio::test]
async fn the_transcript_holds_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp.log");
    let server = qemu(|_| Vec::new());
    let transcript = Transcript::create(&path).unwrap();
    let qmp = Qmp::connect(&server.socket, Some(transcript), PLENTY)
        .await
        .unwrap();
    assert_works(&qmp).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("<- {\"QMP\""), "{text}");
    assert!(text.contains("-> {\"execute\":\"query-status\""), "{text}");
    assert!(
        text.contains("<- {\"id\":1,\"return\":{\"running\":true"),
        "{text}"
    );
}
