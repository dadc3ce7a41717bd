//! `/events`: a server-sent event stream, one event a second, for as long as the client
//! stays.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Body, content_type};

const PERIOD: Duration = Duration::from_secs(1);

/// Answers with the stream; its first event is sent at once.
pub(super) fn stream() -> Response<Body> {
    let mut response = Response::new(Events::every(PERIOD).boxed_unsync());
    content_type(&mut response, "text/event-stream");
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// A body without end: numbered events, one in a period.
struct Events {
    interval: Interval,
    next: u64,
}

impl Events {
    fn every(period: Duration) -> Self {
        let mut interval = interval(period);
        // A slow reader gets the next event later, not a burst of those it missed.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, next: 1 }
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.interval.poll_tick(cx));
        let number = self.next;
        self.next = number.saturating_add(1);
        let event = format!("id: {number}\nevent: tick\ndata: {{\"tick\":{number}}}\n\n");
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn sends_one_event_a_second_beginning_at_once() {
        let start = Instant::now();
        let mut body = Events::every(PERIOD);
        for number in 1..=3_u32 {
            let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let expected = format!("id: {number}\nevent: tick\ndata: {{\"tick\":{number}}}\n\n");
            assert_eq!(event, expected.as_bytes());
            assert_eq!(start.elapsed(), PERIOD * (number - 1));
        }
    }
}
