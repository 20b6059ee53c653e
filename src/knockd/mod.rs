//! The service that takes knocks over HTTP, and answers proxies that ask whether to let somebody
//! in.
//!
//! ```text
//!   paths  what a proxy may let through for anybody
//! ```

#[cfg_attr(not(test), expect(dead_code, reason = "the endpoint that uses it follows"))]
mod paths;
