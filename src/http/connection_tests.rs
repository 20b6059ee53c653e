use std::sync::Arc;

use hyper::client::conn::http2 as client;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::http::empty;

/// Time in which a connection ends that is to end.
const SOON: Duration = Duration::from_secs(60);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of settings without any.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The beginning of a frame of header fields.
const HALF_HEADERS: &[u8] = &[0, 0, 40, 1, 5, 0, 0, 0, 1, 0x82];

/// Serves HTTP/2 with answers that wait for `go`.
fn serve(go: &Arc<Notify>) -> (DuplexStream, JoinHandle<()>) {
    let (ours, theirs) = duplex(64 * 1024);
    let limits = ConnectionLimits { header_timeout: Duration::from_secs(1), max_header: 32 * 1024 };
    let go = Arc::clone(go);
    let respond = move |_request| {
        let go = Arc::clone(&go);
        async move {
            go.notified().await;
            Some(Response::new(empty()))
        }
    };
    let served = async move {
        limits.serve(theirs, Version::Http2, respond, CancellationToken::new()).await;
    };
    (ours, tokio::spawn(served))
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_without_a_request_is_ended() {
    for start in [
        &[][..],
        &PREFACE[..10],
        PREFACE,
        &[PREFACE, SETTINGS].concat(),
        &[PREFACE, SETTINGS, HALF_HEADERS].concat(),
    ] {
        let (mut ours, served) = serve(&Arc::default());
        ours.write_all(start).await.unwrap();
        let ended = timeout(SOON, served).await;
        assert!(ended.is_ok(), "{start:?} is ended");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_lives_as_long_as_its_requests() {
    let go = Arc::default();
    let (ours, served) = serve(&go);
    let io = TokioIo::new(ours);
    let (mut sender, connection) =
        client::handshake::<_, _, Body>(TokioExecutor::new(), io).await.unwrap();
    let client = tokio::spawn(connection);
    let request = Request::get("http://a/").body(empty()).unwrap();
    let answered = tokio::spawn(sender.send_request(request));
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(!served.is_finished(), "a request is under way");
    go.notify_one();
    assert!(answered.await.unwrap().is_ok());
    // The client is there and would stay.
    assert!(timeout(SOON, served).await.is_ok(), "none is under way");
    assert!(timeout(SOON, client).await.is_ok());
    drop(sender);
}
