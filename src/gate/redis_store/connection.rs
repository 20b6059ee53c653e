//! One connection to one server: TCP, TLS or a unix socket, always RESP3.
//!
//! It is made in `connect`. Every answer has to come within
//! [`ANSWER`], so that a server that is stopped is noticed with the next command. A
//! connection never reconnects; a failed one is dropped.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerError, Value,
};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::super::resp_meter::Excess;
use super::access::{ANSWER, Access};
use super::address::Node;
use super::connect::{Connected, Stream, connect};
use super::error::{Kind, RedisFailure};
use super::metered::{Account, Metered};
use super::pushes::Pushes;
use super::reply::{number, text};

/// A connection to one server.
pub(super) struct Connection {
    node: Node,
    connection: MultiplexedConnection,
    account: Arc<Account>,
    _driver: AbortOnDropHandle<()>,
}

/// The role of a server, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    /// Of this master, and whether it has a copy and gets its changes.
    Replica {
        master: Node,
        in_step: bool,
    },
    /// The user may not ask.
    Unknown,
}

// === impl Connection ===

impl Connection {
    /// Connects, with what the server pushes going to `pushes`.
    pub(super) async fn open(
        node: &Node,
        access: &Access,
        pushes: Option<Arc<Pushes>>,
    ) -> Result<Self, RedisFailure> {
        access.known_servers.enter(node, Instant::now())?;
        let Connected { stream, with } = connect(node, access).await?;
        let logging_in = Self::log_in(stream, node, access, pushes);
        let opened = timeout(ANSWER, logging_in).await;
        let opened = opened.unwrap_or_else(|_| Err(RedisFailure::silent(node)));
        opened.map_err(|failure| failure.at(&format!("logging in at {with}")))
    }

    async fn log_in(
        stream: Box<dyn Stream>,
        node: &Node,
        access: &Access,
        pushes: Option<Arc<Pushes>>,
    ) -> Result<Self, RedisFailure> {
        let account = Account::new(Arc::clone(&access.together));
        let stream = Metered::new(stream, Arc::clone(&account));
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(access.db);
        if let Some(credentials) = &access.credentials {
            info = info.set_password(credentials.password.as_str());
            if let Some(user) = &credentials.user {
                info = info.set_username(user);
            }
        }
        let mut config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        if let Some(pushes) = pushes {
            config = config.set_push_sender(move |push| {
                pushes.take_in(push);
                Ok::<(), ()>(())
            });
        }
        // With as many answers as there are commands in the driver's greeting.
        let asked = account.ask(0);
        let opened = MultiplexedConnection::new_with_config(&info, stream, config).await;
        drop(asked);
        let has_user = access.credentials.as_ref().is_some_and(|login| login.user.is_some());
        let (connection, driver) =
            opened.map_err(|error| failure_of(&error, node, &account).of_login(has_user))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Self { node: node.clone(), connection, account, _driver: driver })
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisFailure> {
        let _asked = self.account.ask(1);
        let answer = command.query_async(&mut self.connection.clone()).await;
        answer.map_err(|error| self.failure_of(&error))
    }

    /// Sends all at once; the first error is the error of all.
    pub(super) async fn ask_all(&self, commands: &Pipeline) -> Result<Vec<Value>, RedisFailure> {
        if commands.is_empty() {
            return Ok(vec![]);
        }
        // MULTI and EXEC have answers of their own.
        let more = if commands.is_transaction() { 2 } else { 0 };
        let _asked = self.account.ask(commands.len() + more);
        let answers = commands.query_async(&mut self.connection.clone()).await;
        answers.map_err(|error| self.failure_of(&error))
    }

    /// Sends all at once; an error is the answer of its command alone.
    pub(super) async fn ask_each(
        &self,
        commands: &mut Pipeline,
    ) -> Result<Vec<Value>, RedisFailure> {
        if commands.is_empty() {
            return Ok(vec![]);
        }
        let more = if commands.is_transaction() { 2 } else { 0 };
        let _asked = self.account.ask(commands.len() + more);
        let answers = commands.ignore_errors().query_async(&mut self.connection.clone()).await;
        answers.map_err(|error| self.failure_of(&error))
    }

    /// Sends all as one transaction, which may take `limit`. Returns `None` if a watched key
    /// has changed, so that nothing was done.
    pub(super) async fn transact(
        &self,
        commands: &mut Pipeline,
        limit: Duration,
    ) -> Result<Option<Vec<Value>>, RedisFailure> {
        if commands.is_empty() {
            return Ok(Some(vec![]));
        }
        // MULTI and EXEC have answers of their own.
        let _asked = self.account.ask(commands.len() + 2);
        let mut connection = self.connection.clone();
        connection.set_response_timeout(limit);
        let answers: Result<Vec<Value>, _> = commands.atomic().query_async(&mut connection).await;
        let answers = answers.map_err(|error| self.failure_of(&error))?;
        Ok((answers.len() == commands.len()).then_some(answers))
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<(), RedisFailure> {
        let _asked = self.account.ask(1);
        let answer = self.connection.clone().subscribe(channel).await;
        answer.map_err(|error| self.failure_of(&error))
    }

    /// The reason why the connection failed, where that is known.
    pub(super) fn failure(&self) -> Option<RedisFailure> {
        failure(&self.node, &self.account)
    }

    fn failure_of(&self, error: &RedisError) -> RedisFailure {
        failure_of(error, &self.node, &self.account)
    }

    /// Asks for the role of the server, which also shows that it is alive.
    pub(super) async fn role(&self) -> Result<Role, RedisFailure> {
        match self.ask(&redis::cmd("ROLE")).await {
            Ok(answer) => Ok(role(&answer).unwrap_or(Role::Unknown)),
            Err(failure) if failure.kind == Kind::Denied => {
                self.ask(&redis::cmd("PING")).await?;
                Ok(Role::Unknown)
            }
            Err(failure) => Err(failure),
        }
    }

    /// A failure of this server: it answers with more than there can be.
    pub(super) fn too_much(&self, cause: impl Into<String>) -> RedisFailure {
        RedisFailure::new(Kind::TooMuch, &self.node, cause)
    }

    /// The failure of a command with this answer.
    pub(super) fn refusal(&self, error: &ServerError) -> RedisFailure {
        RedisFailure::of(&error.clone().into(), &self.node)
    }

    /// A failure of kind `Other` of this server.
    pub(super) fn other_failure(&self, cause: impl Into<String>) -> RedisFailure {
        RedisFailure::new(Kind::Other, &self.node, cause)
    }
}

/// Returns the failure; a connection that failed knows its cause best.
fn failure_of(error: &RedisError, node: &Node, account: &Account) -> RedisFailure {
    failure(node, account).unwrap_or_else(|| RedisFailure::of(error, node))
}

fn failure(node: &Node, account: &Account) -> Option<RedisFailure> {
    let too_much = |excess: Excess| RedisFailure::new(Kind::TooMuch, node, excess.to_string());
    let excess = account.excess().map(too_much);
    excess.or_else(|| account.failure().map(|cause| RedisFailure::broken(cause, node)))
}

fn role(answer: &Value) -> Option<Role> {
    let Value::Array(parts) = answer else { return None };
    match text(parts.first()?)?.as_str() {
        "master" => Some(Role::Master),
        "slave" => Some(Role::Replica {
            master: Node::named(&text(parts.get(1)?)?, number(parts.get(2)?)?)?,
            in_step: text(parts.get(3)?)? == "connected",
        }),
        _ => None,
    }
}
