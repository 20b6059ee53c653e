//! Names the settings in which two configurations of a service differ, by their flags, for an
//! operator who reloads.
//!
//! The options are compared and not their text: `60s` instead of `1m` is no change. The pattern
//! below names every field, so that a new one cannot be forgotten.

use knockpipe_firewall::nftables::NftablesOptions;
use knockpipe_firewall::{exec, firewalld, lighthouse};

use crate::firewall::{self, BackendOptions, LighthouseOptions};
use crate::gate::redis_store::{RedisOptions, TlsOptions};
use crate::gate::{GateOptions, Rules, StoreOptions};
use crate::http::ServerTls;
use crate::httpgate;
use crate::knock::ReceiverOptions;
use crate::knockd::{self, KnockRules};
use crate::service::ServiceOptions;
use crate::tunnel::{Limits, Options, Role};
use crate::web::WebOptions;

/// A flag, and true if its value differs.
type Compared = (&'static str, bool);

/// Lists the flags of a service that have different values. One that can listen where it could
/// not before has a new listener, with unchanged flags.
pub(super) fn changed(
    old: &ServiceOptions,
    new: &ServiceOptions,
    has_new_listener: bool,
) -> Vec<String> {
    let all = match (old, new) {
        (ServiceOptions::Tunnel(old), ServiceOptions::Tunnel(new)) => {
            of_tunnel(old, new, has_new_listener)
        }
        (ServiceOptions::Knockd(old), ServiceOptions::Knockd(new)) => {
            of_knockd(old, new, has_new_listener)
        }
        (ServiceOptions::Http(old), ServiceOptions::Http(new)) => {
            of_http(old, new, has_new_listener)
        }
        (ServiceOptions::Firewall(old), ServiceOptions::Firewall(new)) => of_firewall(old, new),
        // The service is of another kind.
        _ => vec![("mode", true)],
    };
    all.into_iter().filter(|(_, differs)| *differs).map(|(flag, _)| flag.to_owned()).collect()
}

fn of_knockd(
    old: &knockd::Options,
    new: &knockd::Options,
    has_new_listener: bool,
) -> Vec<Compared> {
    let knockd::Options {
        web,
        gate,
        rules,
        allowed_origin,
        has_openapi,
        signed,
        excluded,
        disguise,
        plain,
    } = old;
    let mut all = of_web(web, &new.web, has_new_listener);
    let secret = if new.disguise.is_some() { "disguise-secret" } else { "tokens" };
    all.extend(knock_rules_of(rules, &new.rules, secret));
    all.extend([
        ("allowed-origin", *allowed_origin != new.allowed_origin),
        ("openapi", *has_openapi != new.has_openapi),
        ("udp", *signed != new.signed),
        ("allow-plain-http", *plain != new.plain),
        ("exclude-path", *excluded != new.excluded),
        ("disguise", *disguise != new.disguise),
    ]);
    all.extend(gate_of(gate, &new.gate));
    all
}

/// Compares rules of knocks over HTTP, of which the tokens are those of a flag.
fn knock_rules_of(old: &KnockRules, new: &KnockRules, tokens_flag: &'static str) -> [Compared; 5] {
    let KnockRules { tokens, gates, failures, successes, most_grants } = old;
    [
        (tokens_flag, *tokens != new.tokens),
        ("knock-gate", *gates != new.gates),
        ("most-failures", *failures != new.failures),
        ("most-knocks", *successes != new.successes),
        ("most-grants", *most_grants != new.most_grants),
    ]
}

fn of_firewall(old: &firewall::Options, new: &firewall::Options) -> Vec<Compared> {
    let firewall::Options { name: _, gate, backend, at_exit, timeout } = old;
    let mut all = gate_of(gate, &new.gate);
    all.extend([("at-exit", *at_exit != new.at_exit), ("timeout", *timeout != new.timeout)]);
    match (backend, &new.backend) {
        (BackendOptions::Nftables(old), BackendOptions::Nftables(new)) => {
            let NftablesOptions { program: _, table, ports, hooks, cut, reject } = old;
            all.extend([
                ("table", *table != new.table),
                ("ports", *ports != new.ports),
                ("hook", *hooks != new.hooks),
                ("cut", *cut != new.cut),
                ("reject", *reject != new.reject),
            ]);
        }
        (BackendOptions::Firewalld(old), BackendOptions::Firewalld(new)) => {
            let firewalld::Options { zone, ports, reject, bus: _ } = old;
            all.extend([
                ("firewalld-zone", *zone != new.zone),
                ("ports", *ports != new.ports),
                ("reject", *reject != new.reject),
            ]);
        }
        (BackendOptions::Lighthouse(old), BackendOptions::Lighthouse(new)) => {
            all.extend(of_cloud(old, new));
        }
        (BackendOptions::Exec(old), BackendOptions::Exec(new)) => {
            let exec::Options { program, ports, deadline } = old;
            all.extend([
                ("backend", *program != new.program),
                ("ports", *ports != new.ports),
                ("exec-deadline", *deadline != new.deadline),
            ]);
        }
        (old, new) => {
            all.extend([("backend", true), ("ports", old.ports() != new.ports())]);
        }
    }
    all
}

fn of_cloud(old: &LighthouseOptions, new: &LighthouseOptions) -> [Compared; 8] {
    let LighthouseOptions { rules: old, endpoint, tls } = old;
    let lighthouse::Options { instances, region, credentials, prefix, days, ports } = old;
    let rules = &new.rules;
    [
        ("lighthouse-endpoint", *endpoint != new.endpoint),
        ("lighthouse-ca", *tls != new.tls),
        ("lighthouse-instances", *instances != rules.instances),
        ("lighthouse-region", *region != rules.region),
        ("lighthouse-credentials", *credentials != rules.credentials),
        ("lighthouse-prefix", *prefix != rules.prefix),
        ("lighthouse-days", *days != rules.days),
        ("ports", *ports != rules.ports),
    ]
}

fn of_http(
    old: &httpgate::Options,
    new: &httpgate::Options,
    has_new_listener: bool,
) -> Vec<Compared> {
    let httpgate::Options {
        web,
        gate,
        client_header,
        believes_internal,
        targets,
        tls,
        host,
        bind,
        dial_time,
        answer_time,
        idle_time,
        keep,
        resolve_every,
        wait_for_dns,
        check,
        check_path,
        redirect,
        page,
        logs_requests,
        logs_decisions: _,
    } = old;
    let mut all = of_web(web, &new.web, has_new_listener);
    all.extend(gate_of(gate, &new.gate));
    all.extend([
        ("client-ip-header", *client_header != new.client_header),
        ("trust-any-proxy", *believes_internal != new.believes_internal),
        ("target", *targets != new.targets),
        ("target-ca", *tls != new.tls),
        ("target-host", *host != new.host),
        ("bind", *bind != new.bind),
        ("connect-timeout", *dial_time != new.dial_time),
        ("response-timeout", *answer_time != new.answer_time),
        ("idle-timeout", *idle_time != new.idle_time),
        ("keep", *keep != new.keep),
        ("resolve-every", *resolve_every != new.resolve_every),
        ("wait-for-dns", *wait_for_dns != new.wait_for_dns),
        ("check", *check != new.check),
        ("check-path", *check_path != new.check_path),
        ("redirect", *redirect != new.redirect),
        ("access-log", *logs_requests != new.logs_requests),
    ]);
    match (page, &new.page) {
        (Some(old), Some(new)) => {
            all.extend(knock_rules_of(&old.rules, &new.rules, "tokens"));
            all.push(("allow-plain-http", old.plain != new.plain));
        }
        (old, new) => all.push(("knock-page", old.is_some() != new.is_some())),
    }
    all
}

fn of_web(old: &WebOptions, new: &WebOptions, has_new_listener: bool) -> Vec<Compared> {
    let WebOptions {
        name: _,
        sources,
        tls,
        trusted_proxies,
        proxy_from,
        connections,
        per_source,
        timeout,
        // A service has a flag of its own for it.
        idle_time: _,
        keepalive,
        drain,
    } = old;
    let is_same_file = |new: &ServerTls| tls.as_ref().is_some_and(|old| old.cert == new.cert);
    let is_renewed = *tls != new.tls;
    vec![
        ("source", has_new_listener || *sources != new.sources),
        ("tls-cert", is_renewed),
        ("tls-key", is_renewed && !new.tls.as_ref().is_some_and(is_same_file)),
        ("trusted-proxies", *trusted_proxies != new.trusted_proxies),
        ("proxy-from", *proxy_from != new.proxy_from),
        ("max-sessions", *connections != new.connections),
        ("max-per-source", *per_source != new.per_source),
        ("timeout", *timeout != new.timeout),
        ("no-keepalive", *keepalive != new.keepalive),
        ("drain", *drain != new.drain),
    ]
}

fn of_tunnel(old: &Options, new: &Options, has_new_listener: bool) -> Vec<Compared> {
    let Options {
        name: _,
        role,
        sources,
        keys,
        bind,
        limits,
        timeout,
        resolve_every,
        wait_for_dns,
        keepalive,
        padding,
        suites,
        heartbeat,
        idle_timeout,
        drain,
        gate,
        knock,
        proxy_from,
        checks,
        proxy_to_target,
        close_on_target_down,
        // Derived from the others.
        warnings: _,
    } = old;
    let mut all = role_of(role, &new.role);
    all.extend([
        ("source", has_new_listener || *sources != new.sources),
        ("key", *keys != new.keys),
        ("bind", *bind != new.bind),
    ]);
    all.extend(limits_of(limits, &new.limits, role));
    all.extend([
        ("timeout", *timeout != new.timeout),
        ("resolve-every", *resolve_every != new.resolve_every),
        ("wait-for-dns", *wait_for_dns != new.wait_for_dns),
        ("no-keepalive", *keepalive != new.keepalive),
        ("padding", *padding != new.padding),
        ("suite", *suites != new.suites),
        ("heartbeat", *heartbeat != new.heartbeat),
        ("idle-timeout", *idle_timeout != new.idle_timeout),
        ("drain", *drain != new.drain),
        ("proxy-from", *proxy_from != new.proxy_from),
        ("check", *checks != new.checks),
        ("proxy-to-target", *proxy_to_target != new.proxy_to_target),
        ("on-target-down", *close_on_target_down != new.close_on_target_down),
    ]);
    all.extend(match (gate, &new.gate) {
        (Some(old), Some(new)) => gate_of(old, new),
        (old, new) => vec![("gate", old.is_some() != new.is_some())],
    });
    all.extend(match (knock, &new.knock) {
        (Some(old), Some(new)) => knock_of(old, new),
        (old, new) => vec![("knock", old.is_some() != new.is_some())],
    });
    all
}

fn role_of(old: &Role, new: &Role) -> Vec<Compared> {
    match (old, new) {
        (
            Role::Encrypt { targets, service, lazy, knock },
            Role::Encrypt { targets: others, service: another, lazy: other_lazy, knock: new_knock },
        ) => vec![
            ("knock", knock != new_knock),
            ("target", targets != others),
            ("service", service != another),
            ("lazy", lazy != other_lazy),
        ],
        (Role::Decrypt { targets }, Role::Decrypt { targets: others }) => {
            vec![("target", targets != others)]
        }
        _ => vec![("mode", true)],
    }
}

fn limits_of(old: &Limits, new: &Limits, role: &Role) -> [Compared; 4] {
    let Limits { sessions, handshakes, unopened, per_source } = old;
    let unopened_flag = match role {
        Role::Encrypt { .. } => "pool",
        Role::Decrypt { .. } => "max-unopened",
    };
    [
        ("max-sessions", *sessions != new.sessions),
        ("max-handshakes", *handshakes != new.handshakes),
        (unopened_flag, *unopened != new.unopened),
        ("max-per-source", *per_source != new.per_source),
    ]
}

fn gate_of(old: &GateOptions, new: &GateOptions) -> Vec<Compared> {
    let GateOptions { store, rules, denied, on_revoke, ban_after, reap_idle, named } = old;
    let Rules { deny, allow, internal, failure } = rules;
    let mut all = store_of(store, &new.store, *named != new.named);
    all.extend([
        ("deny", *deny != new.rules.deny),
        ("allow", *allow != new.rules.allow),
        ("internal", *internal != new.rules.internal),
        ("gate-failure", *failure != new.rules.failure),
        ("denied", *denied != new.denied),
        ("on-revoke", *on_revoke != new.on_revoke),
        ("ban-after", *ban_after != new.ban_after),
        ("reap-idle", *reap_idle != new.reap_idle),
    ]);
    all
}

fn knock_of(old: &ReceiverOptions, new: &ReceiverOptions) -> Vec<Compared> {
    let ReceiverOptions { addresses, ttl, max_ttl, source, networks, gates, keys } = old;
    vec![
        ("knock", *addresses != new.addresses),
        ("knock-ttl", *ttl != new.ttl),
        ("knock-max-ttl", *max_ttl != new.max_ttl),
        ("knock-source", *source != new.source),
        ("knock-networks", *networks != new.networks),
        ("knock-gate", *gates != new.gates),
        ("knock-key", *keys != new.keys),
    ]
}

/// Compares stores. The password may be the same in another place.
fn store_of(old: &StoreOptions, new: &StoreOptions, is_moved: bool) -> Vec<Compared> {
    let mut all = match (old, new) {
        (StoreOptions::Redis(old), StoreOptions::Redis(new)) => redis_of(old, new, is_moved),
        _ => vec![],
    };
    let is_told = all.iter().any(|(_, differs)| *differs);
    all.push(("gate", old != new && !is_told));
    all
}

fn redis_of(old: &RedisOptions, new: &RedisOptions, is_moved: bool) -> Vec<Compared> {
    let keys = &old.keys;
    let others = &new.keys;
    let is_same =
        old.credentials == new.credentials && old.sentinel_credentials == new.sentinel_credentials;
    let mut all = tls_of(old.tls.as_ref(), new.tls.as_ref());
    all.extend([
        ("gate", old.address != new.address),
        ("gate-credentials", is_moved || !is_same),
        ("set", keys.allow_set != others.allow_set),
        ("history", keys.history != others.history),
        ("ban-prefix", keys.ban_prefix != others.ban_prefix),
        ("allow-prefix", keys.allow_prefix != others.allow_prefix),
    ]);
    all
}

/// Compares TLS files: their paths and their content.
fn tls_of(old: Option<&TlsOptions>, new: Option<&TlsOptions>) -> Vec<Compared> {
    let (Some(old), Some(new)) = (old, new) else { return vec![] };
    let files = &old.files;
    let others = &new.files;
    let is_rewritten = files == others && old != new;
    vec![
        ("gate-ca", is_rewritten || files.ca != others.ca),
        ("gate-cert", is_rewritten && files.cert.is_some() || files.cert != others.cert),
        ("gate-key", is_rewritten && files.key.is_some() || files.key != others.key),
    ]
}
