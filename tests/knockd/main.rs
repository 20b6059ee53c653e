//! Knocks over HTTP at the real program: recorded questions and answers, restarts, brute force,
//! tokens, and the document of the API against its answers.
//!
//! Needs root, for the namespaces of the peers.

mod brute_force;
mod framing;
mod http;
mod knocker;
mod life;
mod openapi;
mod owners;
mod reload;
mod revoked;
mod secrecy;
mod service;
mod signed;
mod token_commands;
mod vectors;
mod verified;
