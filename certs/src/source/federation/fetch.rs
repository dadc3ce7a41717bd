//! One fetch of a bundle (SPIFFE Federation §5.2.1.4, §5.2.2.4): HTTPS, a GET, a few
//! temporary redirects, and limits on time and size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wayleave_identity::{SpiffeId, SpiffeIdPattern};

use super::FederationConfig;
use super::endpoint::{EndpointUrl, EndpointUrlError};
use crate::TrustBundles;
use crate::bundle::{BundleDocument, JwksError};
use crate::tls::{OUTCOME, Outcome, SvidServerVerifier, Trust, WebRoots, crypto_provider};
use crate::verify::VerifyError;

/// The largest bundle document.
const SIZE_LIMIT: usize = 4 * 1024 * 1024;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// Whom the endpoint has to prove to be.
#[derive(Debug, Clone)]
pub(super) enum Server {
    /// A host of the web, by these roots (`https_web`).
    Web(WebRoots),
    /// A workload, by these bundles (`https_spiffe`).
    Spiffe(SpiffeId, TrustBundles),
}

/// Why a bundle was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchBundleError {
    /// It took too long.
    #[error("no bundle within {0:?}")]
    TimedOut(Duration),
    /// The host does not answer.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The endpoint is not the workload that it has to be.
    #[error("the endpoint is not accepted: {0}")]
    Endpoint(#[source] VerifyError),
    /// The host did not prove who it is, or TLS failed otherwise.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The host is not a name that a certificate can have.
    #[error("the host cannot be verified: {0}")]
    Host(#[from] InvalidDnsNameError),
    /// HTTP failed.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The server answers with something else than a bundle.
    #[error("the endpoint answers {0}, not 200")]
    Status(StatusCode),
    /// The server moved for good, which only its operator may tell us.
    #[error(
        "the endpoint has moved for good ({status}, to {location:?}); permanent redirects are not followed, change the configured URL (SPIFFE Federation 7.5.1)"
    )]
    MovedForGood {
        /// The status.
        status: StatusCode,
        /// Where to.
        location: String,
    },
    /// A redirect leads to no bundle endpoint.
    #[error("the endpoint redirects to what is no bundle endpoint: {0}")]
    Redirect(#[source] EndpointUrlError),
    /// There are too many redirects.
    #[error("the endpoint redirects more than {MAX_REDIRECTS} times")]
    TooManyRedirects,
    /// The answer is too large.
    #[error("the answer is larger than 4 MiB")]
    TooLarge,
    /// The answer breaks off.
    #[error("the answer breaks off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not a bundle.
    #[error("the answer cannot be used: {0}")]
    Bundle(#[from] JwksError),
    /// The bundle is older than the one that we have.
    #[error(
        "the endpoint serves sequence {found} after it has served {known}; an older bundle is not taken back"
    )]
    OlderSequence {
        /// The number that was served.
        found: u64,
        /// The number that we have.
        known: u64,
    },
    /// The bundle changed and its sequence number did not.
    #[error(
        "the endpoint serves another bundle under the same sequence {0} (SPIFFE Trust Domain and Bundle 4.1)"
    )]
    SameSequence(u64),
}

/// Fetches the bundle of a trust domain.
pub(super) fn fetch(
    config: &FederationConfig,
    server: Server,
) -> impl Future<Output = Result<BundleDocument, FetchBundleError>> + Send + 'static {
    let (trust_domain, url) = (config.trust_domain.clone(), config.url.clone());
    let limit = config.time_limit;
    async move {
        let body = tokio::time::timeout(limit, follow(url, &server))
            .await
            .map_err(|_| FetchBundleError::TimedOut(limit))??;
        Ok(BundleDocument::from_jwks(trust_domain, &body)?)
    }
}

async fn follow(mut url: EndpointUrl, server: &Server) -> Result<Bytes, FetchBundleError> {
    for _ in 0..=MAX_REDIRECTS {
        let response = get(&url, server).await?;
        match response.status() {
            StatusCode::OK => return read(response.into_body()).await,
            StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::TEMPORARY_REDIRECT => {
                let location = location(response.headers());
                url = url
                    .redirected(&location)
                    .map_err(FetchBundleError::Redirect)?;
            }
            status @ (StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT) => {
                let location = location(response.headers());
                return Err(FetchBundleError::MovedForGood { status, location });
            }
            status => return Err(FetchBundleError::Status(status)),
        }
    }
    Err(FetchBundleError::TooManyRedirects)
}

fn location(headers: &HeaderMap) -> String {
    let value = headers.get(header::LOCATION).map(|value| value.as_bytes());
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// One GET over a connection of its own; the endpoint sees no certificate of ours.
async fn get(url: &EndpointUrl, server: &Server) -> Result<Response<Incoming>, FetchBundleError> {
    let name = ServerName::try_from(url.host().to_owned())?;
    let stream = TcpStream::connect((url.host(), url.port()))
        .await
        .map_err(FetchBundleError::Connect)?;
    let stream = handshake(client_config(server)?, name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a bundle endpoint ended");
        }
    });
    let request = Request::get(url.path_and_query())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchBundleError::Body(error.into()))?;
    Ok(sender.send_request(request).await?)
}

/// The handshake, with the words of our own verifier where it refuses.
async fn handshake(
    config: ClientConfig,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, FetchBundleError> {
    let outcome = Outcome::default();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let result = OUTCOME.scope(Arc::clone(&outcome), connect).await;
    result.map_err(|error| match outcome.get() {
        Some(Err(refusal)) => FetchBundleError::Endpoint(refusal.clone()),
        _ => FetchBundleError::Tls(error),
    })
}

fn client_config(server: &Server) -> Result<ClientConfig, FetchBundleError> {
    let tls = |error| FetchBundleError::Tls(io::Error::other(error));
    let mut config = match server {
        Server::Web(roots) => roots.tls13_config().map_err(tls)?,
        Server::Spiffe(id, bundles) => {
            let verifier = SvidServerVerifier::new(
                Trust::Bundles(bundles.clone()),
                SpiffeIdPattern::Exact(id.clone()),
            );
            ClientConfig::builder_with_provider(Arc::clone(crypto_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(tls)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn read(body: Incoming) -> Result<Bytes, FetchBundleError> {
    match Limited::new(body, SIZE_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchBundleError::TooLarge),
        Err(error) => Err(FetchBundleError::Body(error)),
    }
}
