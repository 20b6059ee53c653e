//! Errors of texts that are no addresses, each with its remedy.
//!
//! Only words: the decision which error a text deserves is made by the parsers.

use super::{MAX_SERVICE_NAME, MAX_UNIX_PATH};

/// Error of a text that is no [`Address`] or [`BindAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// The text is empty.
    #[error(
        "the address is empty; write HOST:PORT, [IP]:PORT or /PATH, and see that no variable in it is empty"
    )]
    Empty,
    /// A colon and a port, but no host before it.
    #[error("\"{0}\" has no host; write HOST{0}, and see that no variable in it is empty")]
    NoHost(String),
    /// A port by itself.
    #[error("\"{0}\" is a port without a host; write HOST:{0}, or 127.0.0.1:{0} for this machine")]
    OnlyPort(u16),
    /// A port without a host, where something listens.
    #[error(
        "\"{0}\" has no host; write 127.0.0.1:{1} for this machine only, 0.0.0.0:{1} for every IPv4 address, or [::]:{1} for every IPv6 and IPv4 address"
    )]
    NoHostToListen(String, String),
    /// A star for every address.
    #[error(
        "\"*\" is not a host; write 0.0.0.0:{0} for every IPv4 address, or [::]:{0} for every IPv6 and IPv4 address"
    )]
    Star(String),
    /// The address is spelled as in a URL or for another program.
    #[error("an address has no scheme, and '{scheme}' is one; write {meant}")]
    Scheme {
        /// The scheme of the address.
        scheme: String,
        /// The address without it.
        meant: String,
    },
    /// Several addresses in one text.
    #[error("\"{0}\" has a comma, and an address has none; give each address by itself")]
    Several(String),
    /// No port after the host.
    #[error("\"{0}\" has no port; write {0}:PORT, or /PATH for a unix socket")]
    NoPort(String),
    /// A colon without a port after it.
    #[error("\"{0}:\" has no port; write {0}:PORT, and see that no variable in it is empty")]
    EmptyPort(String),
    /// The name of a service where none can be.
    #[error(
        "\"{0}\" has a name before '=', which only -t of 'knockpipe decrypt' can have; write the address alone"
    )]
    Named(String),
    /// More than one colon outside of brackets.
    #[error("\"{0}\" has several colons; write an IPv6 address in brackets: [IPv6]:PORT")]
    Unbracketed(String),
    /// Brackets that do not close, or text between them and the port.
    #[error("\"{0}\" has misplaced brackets; write [IP]:PORT")]
    Brackets(String),
    /// Text in brackets that is not an IP address.
    #[error("\"{0}\" is not an IP address; write names without brackets: HOST:PORT")]
    NotAnIp(String),
    /// A host that is neither a name nor an address.
    #[error("\"{0}\" is neither a host name nor an IPv4 address; correct its spelling")]
    BadHost(String),
    /// A port that is no number up to 65535 and no service name.
    #[error("\"{0}\" is not a port; write a number from 0 to 65535 or a name out of /etc/services")]
    BadPort(String),
    /// A unix path that does not fit into a socket address.
    #[error(
        "the socket path is {0} bytes long; a unix socket's path may have {MAX_UNIX_PATH}, so use a shorter one"
    )]
    PathTooLong(usize),
    /// A unix path with a NUL byte.
    #[error("the socket path contains a NUL byte; remove it")]
    PathWithNul,
    /// A bind address that is not numeric.
    #[error(
        "\"{0}\" is not a local IP address; write [IP]:PORT, [IP] or IP, without a name or zone"
    )]
    BadBind(String),
    /// An inherited socket of systemd where an address to dial is meant.
    #[error(
        "\"{0}\" is a socket that systemd listens on, and only a source can be one; give HOST:PORT or /PATH"
    )]
    Inherited(String),
    /// Text that is not a name of a socket.
    #[error(
        "\"{0}\" is not a name of a systemd socket; write systemd:NAME as FileDescriptorName= has it"
    )]
    SocketName(String),
}

/// Error of a text that is no [`ServiceName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a service name; use 1 to {MAX_SERVICE_NAME} letters, digits, dots, hyphens or underscores"
)]
pub struct ServiceNameError(String);

impl ServiceNameError {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl AddrError {
    /// Returns the same error, worded for an address to listen on.
    pub fn listening(self) -> Self {
        match self {
            Self::NoHost(text) => {
                let port = text.trim_start_matches(':').to_owned();
                Self::NoHostToListen(text, port)
            }
            Self::OnlyPort(port) => Self::NoHostToListen(port.to_string(), port.to_string()),
            other => other,
        }
    }
}
