//! The echo: tells the caller what arrived at the application, so that a reader sees what
//! the sidecar added, removed and left alone.

use std::collections::BTreeMap;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;

use super::{Body, content_type, full};

/// The answer's JSON. Header values that are not UTF-8 are shown with replacement characters.
#[derive(Serialize)]
struct Echo {
    method: String,
    /// The path with its query.
    path: String,
    headers: BTreeMap<String, Vec<String>>,
    body_bytes: u64,
}

/// Counts the body as it streams by and answers with what the request was.
///
/// # Errors
/// The body broke off before its end.
pub(super) async fn echo(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let echo = Echo {
        method: head.method.as_str().to_owned(),
        path: head
            .uri
            .path_and_query()
            .map_or("*", |path| path.as_str())
            .to_owned(),
        headers: listed(&head.headers),
        body_bytes: counted(body).await?,
    };
    // Strings, numbers and a map with string keys always serialise.
    let mut response = full(serde_json::to_vec(&echo).unwrap_or_default());
    content_type(&mut response, "application/json");
    Ok(response)
}

fn listed(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut listed = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        listed
            .entry(name.as_str().to_owned())
            .or_default()
            .push(value);
    }
    listed
}

async fn counted(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            bytes = bytes.saturating_add(data.len() as u64);
        }
    }
    Ok(bytes)
}
