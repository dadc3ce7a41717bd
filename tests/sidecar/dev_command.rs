//! `wayleave dev -- COMMAND`: starts an application, stands before it and ends with it.

use super::dev::{Dev, command, directory};
use crate::support::{eventually, tool};

/// A server that listens on `PORT`, and exits with 9 when it is told to end.
const CHILD: &str = r#"
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"child")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[tokio::test]
async fn starts_a_command_forwards_to_its_port_and_passes_signals_on() {
    if tool::find("python3").is_none() {
        return;
    }
    let parent = directory();
    let mut dev = Dev::start(&parent.path().join("dev"), &["--", "python3", "-c", CHILD]).await;
    let answer = eventually("the command to answer", || async {
        let answer = dev.get("frontend", "/").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.text(), "child");
    dev.process.signal("TERM").await;
    assert_eq!(dev.process.ended().await.code(), Some(9));
}

#[tokio::test]
async fn ends_with_the_exit_status_of_its_command() {
    let parent = directory();
    let arguments = ["--", "sh", "-c", "test -n \"$PORT\" && exit 7"];
    let finished = tool::run(&mut command(&parent.path().join("dev"), &arguments)).await;
    assert_eq!(finished.0.status.code(), Some(7), "{}", finished.stderr());
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_one_clear_line() {
    let parent = directory();
    let arguments = ["--", "no-such-command-anywhere"];
    let finished = tool::run(&mut command(&parent.path().join("dev"), &arguments)).await;
    assert_eq!(finished.0.status.code(), Some(2), "{}", finished.stderr());
    assert!(
        finished.stderr().contains("no-such-command-anywhere"),
        "{}",
        finished.stderr()
    );
    assert!(
        !finished.stderr().contains("panicked"),
        "{}",
        finished.stderr()
    );
}
