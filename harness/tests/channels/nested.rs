//! L2 behind a fake `qm` behind a fake agent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use harness::guest::{Agent, Exec, Exit, Guest, GuestError, Nested};
use serde_json::{Value, json};

use crate::fake::{Act, PLENTY, Server};
use crate::guest::{finished, guest};

/// One call of `qm`: its arguments and its standard input.
type QmCall = (Vec<String>, Vec<u8>);

/// A host whose `qm` ends as `qm` says: with an exit code, its standard output and error.
fn host(
    qm: impl Fn(&[&str], &[u8]) -> (i32, String, &'static str) + Send + 'static,
) -> (Server, Nested, Arc<Mutex<Vec<QmCall>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let mut status = Value::Null;
    let server = guest(move |call| match call.name.as_str() {
        "guest-exec" => {
            assert_eq!(call.args["path"], "env");
            let mut args: Vec<String> = serde_json::from_value(call.args["arg"].clone()).unwrap();
            let head: Vec<_> = args.drain(..2).collect();
            assert!(head[0].starts_with("QM_TIMEOUT_SCALE="), "{head:?}");
            assert_eq!(head[1], "qm");
            let input = call.args["input-data"].as_str().unwrap_or_default();
            let input = BASE64_STANDARD.decode(input).unwrap();
            let words: Vec<&str> = args.iter().map(String::as_str).collect();
            let (code, stdout, stderr) = qm(&words, &input);
            status = finished(code, &stdout, stderr);
            seen.lock().unwrap().push((args, input));
            Some(vec![Act::Return(json!({"pid": 1}))])
        }
        "guest-exec-status" => Some(vec![Act::Return(status.clone())]),
        _ => None,
    });
    let agent = Agent::new(server.socket.clone(), None).with_answer_limit(PLENTY);
    let nested = Nested::new(agent, 100);
    (server, nested, calls)
}

async fn outcome(
    code: i32,
    stdout: &str,
    stderr: &'static str,
) -> Result<(Exit, String, String), GuestError> {
    let stdout = stdout.to_owned();
    let (_server, nas, _) = host(move |_, _| (code, stdout.clone(), stderr));
    let output = nas.exec(Exec::new("lsblk", ["-J"], PLENTY)).await?;
    Ok((output.exit, output.stdout_text(), output.stderr_text()))
}

#[tokio::test]
async fn a_command_goes_through_qm_word_by_word() {
    let report = json!({"exited": 1, "exitcode": 0, "out-data": "{}\n"}).to_string();
    let (_server, nas, calls) = host(move |_, _| (0, report.clone(), ""));
    let mut exec = Exec::new("lsblk", ["-J", "two words"], Duration::from_millis(1500));
    exec.input = Some(b"in".to_vec());
    let output = nas.run(exec).await.unwrap();
    assert_eq!(output.stdout_text(), "{}\n");
    let (args, input) = calls.lock().unwrap()[0].clone();
    let wanted = [
        "guest",
        "exec",
        "100",
        "--timeout",
        "2",
        "--pass-stdin",
        "1",
        "--",
        "lsblk",
        "-J",
        "two words",
    ];
    assert_eq!(args, wanted);
    assert_eq!(input, b"in");
}

#[tokio::test]
async fn exit_codes_signals_and_streams_come_out_of_qms_json() {
    let seen = outcome(
        0,
        r#"{"exitcode":2,"exited":1,"out-data":"a","err-data":"b"}"#,
        "",
    )
    .await;
    assert_eq!(seen.unwrap(), (Exit::Code(2), "a".into(), "b".into()));
    let seen = outcome(0, r#"{"exited":true,"signal":15}"#, "").await;
    assert_eq!(seen.unwrap().0, Exit::Signal(15));
}

#[tokio::test]
async fn qms_own_failures_are_told_apart() {
    let error = outcome(255, "", "VM 100 is not running\n")
        .await
        .unwrap_err();
    assert!(matches!(error, GuestError::Refused { .. }), "{error}");
    assert!(
        error.to_string().contains("VM 100 is not running"),
        "{error}"
    );
    let error = outcome(255, "", "QEMU guest agent is not running\n")
        .await
        .unwrap_err();
    assert!(matches!(error, GuestError::Broken { .. }), "{error}");
    let error = outcome(0, r#"{"pid":77}"#, "timeout reached, returning pid")
        .await
        .unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    let error = outcome(0, "Killed", "").await.unwrap_err();
    assert!(error.to_string().contains("not its JSON"), "{error}");
    let cut = r#"{"exited":1,"exitcode":0,"out-truncated":1}"#;
    let error = outcome(0, cut, "").await.unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[tokio::test]
async fn files_travel_in_base64_and_in_pieces() {
    let content: Vec<u8> = (0..1_300_000u32).map(|n| (n % 251) as u8).collect();
    let file = Arc::new(Mutex::new(b"old".to_vec()));
    let shown = Arc::clone(&file);
    let (_server, nas, calls) = host(move |args, input| {
        assert!(input.len() <= 1 << 20, "more than Proxmox passes on");
        let mut file = shown.lock().unwrap();
        let mut out = String::new();
        match args {
            [.., "base64", "-w0", "--", "/etc/a b"] => out = BASE64_STANDARD.encode(&*file),
            [.., "-c", script, "sh", "/etc/a b"] => {
                if !script.contains(">>") {
                    file.clear();
                }
                file.extend(BASE64_STANDARD.decode(input).unwrap());
            }
            other => panic!("{other:?}"),
        }
        (
            0,
            json!({"exited": 1, "exitcode": 0, "out-data": out}).to_string(),
            "",
        )
    });
    for content in [&content[..], b"", b"short"] {
        nas.write_file("/etc/a b", content).await.unwrap();
        assert!(nas.read_file("/etc/a b").await.unwrap() == content);
    }
    assert_eq!(calls.lock().unwrap().len(), 8);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error_with_the_commands_own_words() {
    let report =
        json!({"exited": 1, "exitcode": 1, "err-data": "base64: /x: No such file or directory\n"});
    let (_server, nas, _) = host(move |_, _| (0, report.to_string(), ""));
    let error = nas.read_file("/x").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("in nas ended with exit code 1: base64: /x: No such"),
        "{error}"
    );
}

#[tokio::test]
async fn more_input_than_qm_passes_on_is_refused() {
    let (_server, nas, calls) = host(|_, _| (0, String::new(), ""));
    let mut exec = Exec::new("cat", ["-"], PLENTY);
    exec.input = Some(vec![0; (1 << 20) + 1]);
    let error = nas.exec(exec).await.unwrap_err();
    assert!(error.to_string().contains("1 MiB"), "{error}");
    assert!(calls.lock().unwrap().is_empty());
}
