//! Requests whose body is still being sent, and that an answer does not keep anybody from looking
//! at: the lease ends those too.

use std::sync::Arc;

use http_body_util::BodyExt;

use super::calls::{Whose, body_of_units};
use super::tally::Tally;
use super::triggers::Trigger;
use super::world::World;
use crate::support::client::Http2;
use crate::support::within;

/// An HTTP/2 call whose request goes on after its answer has begun.
struct Sending {
    world: World,
    response: http::Response<hyper::body::Incoming>,
    client: Arc<Tally>,
    application: Arc<Tally>,
}

impl Sending {
    /// To the application that does with it as `how` says.
    async fn begin(how: &str) -> Self {
        let world = World::begin(Trigger::Quarantine.beginning()).await;
        let client = Arc::<Tally>::default();
        let mut http2 = Http2::over(world.tls("grpc", Whose::Hit, &["h2"]).await).await;
        let request = http::Request::post(format!("https://localhost/hit/{how}"));
        let request = request.body(body_of_units(&client)).unwrap();
        let response = within("the head", http2.0.send_request(request)).await;
        let application = world.applications.notes.of(&format!("/hit/{how}"));
        application.until_got(3, how).await;
        Self {
            world,
            response: response.unwrap(),
            client,
            application,
        }
    }

    async fn expect_cut(self) {
        Trigger::Quarantine.pull(&self.world).await;
        let end = self.application.until_ended("the request").await;
        assert_eq!(end, "RST_STREAM");
        assert!(self.application.got() <= self.client.sent());
        // An answer that is not read is open for as long as its caller keeps it so.
        self.client.finish();
        drop(self.response);
        let record = self
            .world
            .sidecar
            .record(|record| record["resource"]["service"] == "app");
        assert_eq!(record.await["ended_by"], "quarantine");
    }
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_cannot_go_on_sending() {
    let sending = Sending::begin("flood").await;
    sending.expect_cut().await;
}

#[tokio::test]
async fn a_caller_that_was_answered_already_cannot_go_on_sending() {
    let mut sending = Sending::begin("early").await;
    let answer = within("the answer", sending.response.frame()).await;
    assert!(answer.is_none(), "{answer:?}");
    sending
        .application
        .until_got(10, "what is sent after the answer")
        .await;
    sending.expect_cut().await;
}

#[tokio::test]
async fn a_request_that_goes_on_after_its_answer_is_carried_whole() {
    let sending = Sending::begin("early").await;
    sending
        .application
        .until_got(20, "what is sent after the answer")
        .await;
    sending.client.finish();
    let end = sending.application.until_ended("the request").await;
    assert_eq!(end, "whole");
    assert_eq!(sending.application.got(), sending.client.sent());
}
