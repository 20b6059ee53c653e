//! `-t`: the targets and their order.

use super::errors::UsageError;
use super::values::Target;
use crate::addr::{Address, ServiceName};

/// Returns far ends in their order, each once.
pub(super) fn without_service(targets: Vec<Target>) -> Result<Vec<Address>, UsageError> {
    if targets.iter().any(|target| target.service.is_some()) {
        return Err(UsageError::NamedTarget);
    }
    Ok(by_service(targets)?.into_iter().map(|(_, address)| address).collect())
}

/// Returns targets in their order, with the empty name for the default ones; none occurs twice with
/// one name.
pub(super) fn by_service(targets: Vec<Target>) -> Result<Vec<(ServiceName, Address)>, UsageError> {
    let mut named: Vec<(ServiceName, Address)> = Vec::with_capacity(targets.len());
    for Target { service, address } in targets {
        let target = (service.unwrap_or_default(), address);
        if named.contains(&target) {
            return Err(UsageError::SameTarget(target.1));
        }
        named.push(target);
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(texts: &[&str]) -> Result<Vec<String>, UsageError> {
        let targets = texts.iter().map(|text| text.parse().unwrap()).collect();
        Ok(by_service(targets)?.iter().map(|(name, _)| name.to_string()).collect())
    }

    #[test]
    fn targets_of_one_name_keep_their_order_and_come_once() {
        let given = ["redis=a:1", "b:2", "mysql=a:1", "redis=b:1", "c:3"];
        assert_eq!(targets(&given).unwrap(), ["redis", "", "mysql", "redis", ""]);
        for twice in [["a:1", "a:1"], ["redis=a:1", "redis=a:1"]] {
            let error = targets(&twice).unwrap_err();
            assert!(matches!(error, UsageError::SameTarget(_)));
        }
    }
}
