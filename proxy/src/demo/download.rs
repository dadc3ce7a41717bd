//! `/bytes?n=N`: a download of exactly N bytes whose content is known beforehand, made as
//! fast as the client reads and no faster.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::{Body, content_type, problem};

/// The largest download, 10 GiB.
pub(super) const MAX_BYTES: u64 = 10 << 30;
/// The content repeats after this many bytes: byte `i` is `i mod 251`. A prime, so that a
/// chunk that is lost, doubled or shifted by a power of two shows.
const PERIOD: usize = 251;
/// Just under 64 KiB, and a whole number of periods, so that every chunk is the same.
const CHUNK_BYTES: usize = PERIOD * 256;

static CHUNK: LazyLock<Bytes> = LazyLock::new(|| {
    (0..=250_u8)
        .cycle()
        .take(CHUNK_BYTES)
        .collect::<Vec<u8>>()
        .into()
});

/// Answers with N bytes, or with 400 where the query has no usable N.
pub(super) fn bytes(query: Option<&str>) -> Response<Body> {
    let Some(remaining) = wanted(query.unwrap_or_default()) else {
        let detail = format!("the query must be `n=N` with N from 0 to {MAX_BYTES}");
        return problem(StatusCode::BAD_REQUEST, &detail);
    };
    let mut response = Response::new(Pattern { remaining }.boxed_unsync());
    content_type(&mut response, "application/octet-stream");
    response
}

fn wanted(query: &str) -> Option<u64> {
    let digits = query.strip_prefix("n=")?;
    // `parse` alone would let `+3` pass.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|bytes| *bytes <= MAX_BYTES)
}

/// The body: the same chunk again and again, shared and never copied.
struct Pattern {
    remaining: u64,
}

impl HttpBody for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = CHUNK.clone();
        chunk.truncate(usize::try_from(self.remaining).unwrap_or(CHUNK_BYTES));
        self.remaining = self.remaining.saturating_sub(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sends_exactly_the_bytes_asked_for() {
        let chunk = CHUNK_BYTES as u64;
        for n in [0, 1, 250, 251, chunk - 1, chunk, chunk + 1, 3 * chunk + 7] {
            let response = bytes(Some(&format!("n={n}")));
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len() as u64, n);
            assert!(
                body.iter()
                    .zip((0..=250_u8).cycle())
                    .all(|(byte, expected)| *byte == expected)
            );
        }
    }

    #[tokio::test]
    async fn a_bad_n_is_told_what_a_good_one_is() {
        let above = format!("n={}", MAX_BYTES + 1);
        for query in ["", "n=", "n=+3", "n=-1", "n=1e3", "n=3&n=4", "m=3", &above] {
            let response = bytes(Some(query));
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["status"], 400);
            assert!(problem["detail"].as_str().unwrap().contains("10737418240"));
        }
        assert_eq!(bytes(None).status(), StatusCode::BAD_REQUEST);
    }
}
