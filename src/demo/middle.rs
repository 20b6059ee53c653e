//! An attacker on the path that damages the first answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::proto::handshake::MESSAGE_LEN;

/// Damage to the connection.
#[derive(Clone, Copy)]
pub(super) enum Harm {
    /// One bit of the first record from the acceptor is flipped.
    FlipABit,
    /// The connection is closed, cleanly as TCP goes, in the middle of it.
    Cut,
}

/// A relay that passes the handshake and then does its [`Harm`].
pub(super) struct Middle {
    address: String,
}

impl Harm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FlipABit => "a tampered byte",
            Self::Cut => "a cut connection",
        }
    }
}

impl Middle {
    /// Relays one connection to `far_end`.
    pub(super) async fn start(far_end: &str, harm: Harm) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let far_end = far_end.to_owned();
        tokio::spawn(async move {
            let (dialer, _) = listener.accept().await?;
            let acceptor = TcpStream::connect(far_end).await?;
            relay(dialer, acceptor, harm).await
        });
        Ok(Self { address })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

async fn relay(dialer: TcpStream, acceptor: TcpStream, harm: Harm) -> std::io::Result<()> {
    let (mut from_dialer, mut to_dialer) = dialer.into_split();
    let (mut from_acceptor, mut to_acceptor) = acceptor.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_dialer, &mut to_acceptor).await });
    let mut message2 = [0; MESSAGE_LEN];
    from_acceptor.read_exact(&mut message2).await?;
    to_dialer.write_all(&message2).await?;
    let mut record = [0; 100];
    from_acceptor.read_exact(&mut record).await?;
    match harm {
        Harm::FlipABit => {
            record[50] ^= 1;
            to_dialer.write_all(&record).await?;
            tokio::io::copy(&mut from_acceptor, &mut to_dialer).await?;
        }
        Harm::Cut => {
            to_dialer.write_all(&record).await?;
            to_dialer.shutdown().await?;
        }
    }
    let _ = up.await;
    Ok(())
}
