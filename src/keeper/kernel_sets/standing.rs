//! Grants that the kernel still holds of an earlier keeper, known by the comments of their
//! elements.

use super::{KernelSetsError, all_own_sets, ruleset};
use crate::config::{Config, Family, Mechanism, Name};
use crate::firewall::guard;
use crate::firewall::netlink::Comment;
use crate::firewall::nft_set::OwnSets;
use crate::firewall::ruleset::GuardGrant;
use crate::grants::{GrantKey, KernelElement, KernelGrant, Origin};

/// What the kernel still holds of an earlier keeper's grants.
pub(in crate::keeper) fn standing(config: &Config) -> Result<Vec<KernelGrant>, KernelSetsError> {
    let mut held = Vec::new();
    let uses_guard = ruleset(config, None).is_some();
    let elements = match guard::standing() {
        Ok(elements) => elements,
        // A machine without nftables has no table; whoever wants one is told when it is set up.
        Err(_) if !uses_guard => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for GuardGrant { key, left, ceiling, comment } in elements {
        let origin = read_comment(&comment).map_or(Origin::KNOCKCTL, |(_, origin)| origin);
        held.push(KernelGrant { key, origin, element: KernelElement::Guard, left, ceiling });
    }
    let own = all_own_sets(config);
    if own.is_empty() {
        return Ok(held);
    }
    let mut sets = OwnSets::check(own)?;
    for reference in sets.all() {
        for entry in sets.netlink.dump(&reference)? {
            let Some((name, origin)) = read_comment(&entry.comment) else { continue };
            let mechanism = config.door(&name).map(|door| &door.opening.mechanism);
            let Some(Mechanism::Set(set)) = mechanism else { continue };
            let (Some(address), Some(left)) = (entry.key.as_address(), entry.left) else {
                continue;
            };
            if set.reference(Family::of(address.to_canonical())).as_ref() == Some(&reference) {
                let key = GrantKey::new(name, address);
                let element = KernelElement::Set(reference.clone());
                held.push(KernelGrant { key, origin, element, left, ceiling: None });
            }
        }
    }
    Ok(held)
}

/// What an element says: our mark, the door and what opened it.
pub(super) fn comment(door: &Name, origin: &Origin) -> Comment {
    let Origin { by, client } = origin;
    Comment::new(&match client {
        Some(client) => format!("{} {door} {by} {client}", Comment::OURS),
        None => format!("{} {door} {by}", Comment::OURS),
    })
}

/// What a comment says; `None`: somebody else's element.
fn read_comment(comment: &Comment) -> Option<(Name, Origin)> {
    let mut words = comment.as_str().split(' ');
    (words.next() == Some(Comment::OURS)).then_some(())?;
    let (door, by) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let client = words.next().and_then(|client| client.parse().ok());
    Some((door, Origin { by, client }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::OpenedBy;
    use crate::proto::method::Method;

    #[test]
    fn a_comment_says_whose_element_it_is() {
        let door: Name = "ssh".parse().unwrap();
        for client in [None, Some("phone".parse().unwrap())] {
            let origin = Origin { by: OpenedBy::Method(Method::Totp), client };
            let ours = comment(&door, &origin);
            assert_eq!(read_comment(&ours), Some((door.clone(), origin)));
        }
        for other in ["", "added by hand", "knockd", "knockd ssh", "knockd ssh magic"] {
            assert_eq!(read_comment(&Comment::new(other)), None, "{other}");
        }
    }
}
