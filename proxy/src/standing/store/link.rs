//! One connection to the store: by TCP or TLS, greeted, and subscribed to what others publish.
//! Every step has a time limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, ProtocolVersion, PushInfo, PushKind,
    RedisConnectionInfo, RedisError, Value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use wayleave_certs::tls::{HandshakeError, WebRoots, WebRootsError, WebTls};

use crate::config::{SignalStoreConfig, StoreUrl};

/// How many messages of others may wait here before everything is read anew instead.
const WAITING: usize = 8_192;
/// The largest password file, in bytes.
const LARGEST: u64 = 4_096;

/// Why the store cannot be used. No message has a password in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] HandshakeError),
    #[error("`{}` (signals.store.password_file) cannot be read: {source}", path.display())]
    Password {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the server closed the connection")]
    Closed,
}

impl StoreError {
    /// The stable name for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Password { .. } => "password",
            Self::Timeout(_) => "timeout",
            Self::Refused(_) => "refused",
            Self::Closed => "closed",
        }
    }
}

/// Why the store can never be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("`{}` (signals.store.password_file) cannot be read: {source}", path.display())]
    Password {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("signals.store.ca_file: {0}")]
    Roots(#[from] WebRootsError),
    #[error("TLS for signals.store cannot be set up: {0}")]
    Tls(#[from] HandshakeError),
    #[error("`{0}` (signals.store.url) is no name that a server can prove by TLS")]
    Name(String),
}

/// How to connect. Reads the authorities once, and the password each time.
#[derive(Debug)]
pub(super) struct Dialer {
    url: StoreUrl,
    password_file: Option<PathBuf>,
    tls: Option<(WebTls, ServerName<'static>)>,
    timeout: Duration,
}

/// A connection, which lasts as long as this does.
pub(super) struct Link {
    pub(super) asker: Asker,
    pub(super) ear: Ear,
    pub(super) driver: AbortOnDropHandle<()>,
}

/// Asks the server. Several may at once.
#[derive(Clone)]
pub(super) struct Asker {
    connection: MultiplexedConnection,
    timeout: Duration,
}

/// What a link hears: messages of others, in the order in which they were published.
pub(super) struct Ear {
    waiting: mpsc::Receiver<PushInfo>,
    missed: Arc<Notify>,
}

impl Dialer {
    /// # Errors
    /// When a file cannot be read, or the host is none that can be proved.
    pub(super) fn new(config: &SignalStoreConfig) -> Result<Self, SetupError> {
        if let Some(path) = &config.password_file {
            read_password(path).map_err(|source| SetupError::Password {
                path: path.clone(),
                source,
            })?;
        }
        let host = &config.url.address.host;
        let tls = config.url.tls.then(|| {
            let roots = match &config.ca_file {
                Some(path) => WebRoots::file(path)?,
                None => WebRoots::system()?,
            };
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| SetupError::Name(host.clone()))?;
            Ok::<_, SetupError>((WebTls::without_alpn(&roots)?, name))
        });
        Ok(Self {
            url: config.url.clone(),
            password_file: config.password_file.clone(),
            tls: tls.transpose()?,
            timeout: config.timeout,
        })
    }

    /// Connects, and hears what is published on `channel` from when this completes.
    pub(super) async fn open(&self, channel: &str) -> Result<Link, StoreError> {
        let limit = self.timeout;
        let within = |_| StoreError::Timeout(limit);
        let address = (self.url.address.host.as_str(), self.url.address.port);
        let stream = timeout(limit, TcpStream::connect(address)).await;
        let stream = stream.map_err(within)?.map_err(StoreError::Connect)?;
        // Small messages, each of which somebody waits for.
        stream.set_nodelay(true).map_err(StoreError::Connect)?;
        let greeted = async {
            match &self.tls {
                None => self.greet(stream).await,
                Some((tls, name)) => {
                    let stream = tls.connect(name.clone(), stream).await;
                    self.greet(stream.map_err(StoreError::Tls)?).await
                }
            }
        };
        let mut link = timeout(limit, greeted).await.map_err(within)??;
        let subscribe = redis::cmd("SUBSCRIBE").arg(channel).take();
        link.asker.ask::<Value>(&subscribe).await?;
        Ok(link)
    }

    async fn greet<S>(&self, stream: S) -> Result<Link, StoreError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (told, waiting) = mpsc::channel(WAITING);
        let missed = Arc::new(Notify::new());
        let ear = Ear {
            waiting,
            missed: Arc::clone(&missed),
        };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.timeout))
            .set_push_sender(move |push| {
                if told.try_send(push).is_err() {
                    missed.notify_one();
                }
                Ok::<(), ()>(())
            });
        let who = self.who()?;
        let greeted = MultiplexedConnection::new_with_config(&who, stream, config).await;
        let (connection, driver) = greeted.map_err(|error| failed(&error, self.timeout))?;
        let asker = Asker {
            connection,
            timeout: self.timeout,
        };
        Ok(Link {
            asker,
            ear,
            driver: AbortOnDropHandle::new(tokio::spawn(driver)),
        })
    }

    /// RESP3, in which answers and messages share a connection (Redis 6, Valkey).
    fn who(&self) -> Result<RedisConnectionInfo, StoreError> {
        let mut who = RedisConnectionInfo::default()
            .set_db(i64::from(self.url.database))
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(user) = &self.url.user {
            who = who.set_username(user);
        }
        if let Some(password) = &self.url.password {
            who = who.set_password(password.reveal());
        }
        if let Some(path) = &self.password_file {
            let failed = |source| StoreError::Password {
                path: path.clone(),
                source,
            };
            who = who.set_password(read_password(path).map_err(failed)?);
        }
        Ok(who)
    }
}

/// # Errors
/// When it cannot be read, or has no password.
fn read_password(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_string(&mut text)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || text.len() as u64 > LARGEST {
        return Err(io::Error::other("it must hold a password and nothing else"));
    }
    Ok(password.to_owned())
}

impl Asker {
    /// Sends a command and waits for its answer.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| failed(&error, self.timeout))
    }

    /// Sends many commands at once and waits for all their answers.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &mut self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let answers = commands.query_async(&mut self.connection).await;
        answers.map_err(|error| failed(&error, self.timeout))
    }
}

impl Ear {
    /// The next message. None once the connection is gone, or messages were missed.
    pub(super) async fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            let PushInfo { kind, data } = tokio::select! {
                push = self.waiting.recv() => push?,
                () = self.missed.notified() => return None,
            };
            match (kind, data.into_iter().nth(1)) {
                (PushKind::Disconnection, _) => return None,
                (PushKind::Message, Some(Value::BulkString(message))) => return Some(message),
                _ => {}
            }
        }
    }
}

fn failed(error: &RedisError, limit: Duration) -> StoreError {
    if error.is_timeout() {
        StoreError::Timeout(limit)
    } else if error.is_connection_dropped() || error.is_io_error() {
        StoreError::Closed
    } else {
        StoreError::Refused(error.to_string())
    }
}
