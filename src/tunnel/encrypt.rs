//! The encrypt end, connection by connection: plain in, sealed out.
//!
//! ```text
//!   accept plain -> dial the far end -> shake hands -> Open -> relay -> reason
//! ```
//!
//! A client that cannot be served sees a reset, and this end's log the cause.

use tokio::time::{Instant, timeout};

use super::relay::{Start, relay};
use super::report::Report;
use super::secure::Caller;
use super::serve::Shared;
use crate::addr::{ClientAddr, ServiceName};
use crate::net::{DialError, Resolver, Stream, dial};
use crate::observe::failures::Told;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// What the encrypt end needs beyond what both ends do.
pub(super) struct Entrance {
    pub(super) caller: Caller,
    pub(super) far_end: Resolver,
    /// How the log names the far end.
    pub(super) far_end_name: String,
    pub(super) service: ServiceName,
}

/// A connection that came to nothing, and what the log says of it.
type Refused = (CloseReason, String);

/// Serves one accepted client, which is set to see a reset unless it ends well.
pub(super) async fn serve(
    entrance: &Entrance,
    shared: &Shared,
    (plain, client): (Stream, ClientAddr),
) {
    let mut report = Report::new(client);
    report.target = Some(entrance.far_end_name.clone());
    report.service.clone_from(&entrance.service);
    let opened = tokio::select! {
        opened = entrance.open_tunnel(shared) => opened,
        reason = shared.cut() => Err((reason, "before the far end answered".to_owned())),
    };
    let (mut sealed, mut session) = match opened {
        Ok(tunnel) => tunnel,
        Err((reason, detail)) => return refuse(shared, report, (reason, detail)),
    };
    report.session = Some((session.key, session.suite));
    let open = Open { service: entrance.service.clone(), client };
    let mut first = vec![];
    if session.outbound.open(&open, &mut first).is_err() {
        return report.refused(CloseReason::LocalError, &"no record can be sealed");
    }
    let start = Start { first, already_read: vec![] };
    let end = relay((plain, &mut sealed), &mut session, start, shared.cut()).await;
    report.closed(&end);
}

/// Where the far end is away every client fails for the same cause: the first
/// of them is told in full, the others are counted.
fn refuse(shared: &Shared, report: Report, (reason, detail): Refused) {
    match reason {
        CloseReason::NoAnswer | CloseReason::PeerUnreachable => {
            match shared.refused(reason, report.peer()) {
                Told::Now => report.refused(reason, &detail),
                Told::Later => report.repeated(reason, &detail),
            }
        }
        _ => report.refused(reason, &detail),
    }
}

impl Entrance {
    /// Dials the far end and shakes hands: a deadline for each.
    async fn open_tunnel(&self, shared: &Shared) -> Result<(Stream, Session), Refused> {
        let mut sealed =
            self.dial(shared).await.map_err(|error| (unreachable(&error), error.to_string()))?;
        let called = timeout(shared.timeout, self.caller.call(&mut sealed)).await;
        match called.unwrap_or(Err(CloseReason::NoAnswer)) {
            Ok(session) => Ok((sealed, session)),
            Err(reason) => {
                self.caller.failed();
                Err((reason, what_to_check(reason)))
            }
        }
    }
}

impl Entrance {
    async fn dial(&self, shared: &Shared) -> Result<Stream, DialError> {
        let deadline = Instant::now() + shared.timeout;
        dial(&self.far_end.current()?, shared.bind, &shared.socket, deadline).await
    }
}

fn unreachable(error: &DialError) -> CloseReason {
    match error {
        DialError::Local(_) => CloseReason::LocalError,
        _ => CloseReason::PeerUnreachable,
    }
}

/// An acceptor never says why it does not answer, so this end's log has to.
pub(super) const WHAT_TO_CHECK: &str = "check that it is a knockpipe decrypt, that it has this key, that both clocks agree within \
     two minutes, and that neither its limits nor --suite keep this end out";

fn what_to_check(reason: CloseReason) -> String {
    match reason {
        CloseReason::NoAnswer => {
            format!("the far end can be reached but does not answer; {WHAT_TO_CHECK}")
        }
        _ => "this host could not give randomness or memory".to_owned(),
    }
}
