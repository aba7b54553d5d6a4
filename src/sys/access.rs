//! Access to a file as Windows has it: who owns it, and whom its list lets do what.

/// Rights that let somebody read a file, now or after a change of its list.
pub(crate) const READ: u32 = 0x1 | CHANGE | GENERIC_ALL | 0x8000_0000;
/// Rights that let somebody write, append, or put another file in its place.
pub(crate) const WRITE: u32 = 0x2 | 0x4 | 0x1_0000 | CHANGE | GENERIC_ALL | 0x4000_0000;
/// Of the list, and of the owner.
const CHANGE: u32 = 0x4_0000 | 0x8_0000;
const GENERIC_ALL: u32 = 0x1000_0000;

/// Those who can do all in any case: Windows itself, administrators, and its installer.
const SYSTEM: [&str; 3] =
    ["S-1-5-18", "S-1-5-32-544", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"];
/// Whoever owns the file; and everybody.
const OWNER: &str = "S-1-3-4";
const EVERYBODY: &str = "S-1-1-0";

/// Who owns a file, and who may do what; each by a SID as text, `S-1-5-18`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub user: String,
    pub owner: String,
    /// `None`: everybody may do all.
    pub allowed: Option<Vec<(String, u32)>>,
}

impl Access {
    /// Somebody other than the user and those who can do all in any case who has one of these
    /// rights. What a list denies is not counted for it: the order decides that.
    pub(crate) fn other_than_owner(&self, rights: u32) -> Option<String> {
        let is_other = |sid: &str| sid != self.user && !SYSTEM.contains(&sid);
        let Some(allowed) = &self.allowed else { return Some(EVERYBODY.to_owned()) };
        let mut allowed = allowed.iter().filter(|(sid, has)| sid != OWNER && has & rights != 0);
        let other = allowed.find(|(sid, _)| is_other(sid)).map(|(sid, _)| sid);
        other.or(Some(&self.owner).filter(|owner| is_other(owner))).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "S-1-5-21-1-2-3-1001";
    const ALL: u32 = 0x001f_01ff;
    /// What `icacls` calls `(RX)`.
    const READS: u32 = 0x0012_00a9;

    fn access(owner: &str, allowed: &[(&str, u32)]) -> Access {
        let allowed = allowed.iter().map(|(sid, rights)| ((*sid).to_owned(), *rights)).collect();
        Access { user: USER.to_owned(), owner: owner.to_owned(), allowed: Some(allowed) }
    }

    #[test]
    fn a_file_of_the_user_and_of_administrators_is_nobody_elses() {
        let allowed = [(USER, ALL), (SYSTEM[0], ALL), (SYSTEM[1], ALL), (OWNER, ALL)];
        for owner in [USER, SYSTEM[1]] {
            assert_eq!(access(owner, &allowed).other_than_owner(READ | WRITE), None);
        }
    }

    #[test]
    fn whoever_else_may_read_is_named_and_may_not_write_for_it() {
        let file = access(USER, &[(USER, ALL), ("S-1-5-32-545", READS)]);
        assert_eq!(file.other_than_owner(READ | WRITE).as_deref(), Some("S-1-5-32-545"));
        assert_eq!(file.other_than_owner(WRITE), None);
    }

    #[test]
    fn whoever_may_change_the_list_may_read_and_write() {
        for right in [0x4_0000, 0x8_0000, 0x1000_0000] {
            let file = access(USER, &[(EVERYBODY, right)]);
            assert_eq!(file.other_than_owner(READ).as_deref(), Some(EVERYBODY));
            assert_eq!(file.other_than_owner(WRITE).as_deref(), Some(EVERYBODY));
        }
    }

    #[test]
    fn a_file_without_a_list_is_everybodys() {
        let file = Access { allowed: None, ..access(USER, &[]) };
        assert_eq!(file.other_than_owner(READ).as_deref(), Some(EVERYBODY));
    }

    #[test]
    fn a_file_of_somebody_else_is_theirs_to_change() {
        let theirs = access("S-1-5-21-1-2-3-1002", &[(USER, ALL)]);
        assert_eq!(theirs.other_than_owner(WRITE).as_deref(), Some("S-1-5-21-1-2-3-1002"));
    }

    #[test]
    fn what_is_allowed_to_do_something_else_does_not_count() {
        assert_eq!(access(USER, &[(EVERYBODY, 0x10_0080)]).other_than_owner(READ | WRITE), None);
    }
}
