//! Windows, where the standard library has no words for it: who may use a file, files that are their
//! maker's alone, a lock that readers do not feel, and the end of standard output.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{GENERIC_WRITE, LocalFree};
use windows_sys::Win32::Security::{self, Authorization};
use windows_sys::Win32::Storage::FileSystem::{LOCKFILE_EXCLUSIVE_LOCK, LockFileEx, WRITE_DAC};
use windows_sys::Win32::System::Console::{GetStdHandle, STD_OUTPUT_HANDLE, SetStdHandle};
use windows_sys::Win32::System::IO::OVERLAPPED;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::access::Access;

/// What an entry of a list is that allows something: plainly, or under a condition.
const ALLOWS: [u8; 2] = [0, 9];

/// Memory that Windows has given, and takes back.
struct Given(*mut c_void);

impl Drop for Given {
    fn drop(&mut self) {
        // SAFETY: it is of `LocalAlloc`, and nobody else has it.
        unsafe { LocalFree(self.0) };
    }
}

/// Who owns an open file, and who may do what with it.
///
/// # Errors
/// Where the file system does not tell.
pub(crate) fn access(file: &File) -> io::Result<Access> {
    let (mut owner, mut list, mut descriptor) = (null_mut(), null_mut(), null_mut());
    let (handle, kind) = (file.as_raw_handle(), Authorization::SE_FILE_OBJECT);
    let asked = Security::OWNER_SECURITY_INFORMATION | Security::DACL_SECURITY_INFORMATION;
    let (to, none) = ((&raw mut owner, &raw mut list, &raw mut descriptor), null_mut());
    // SAFETY: the handle is open; the places that are written to are ours, or left out. Owner and
    // list are parts of the descriptor, which lives until the end of this function.
    unsafe {
        match Authorization::GetSecurityInfo(
            handle,
            kind,
            asked,
            to.0,
            none,
            to.1,
            none.cast(),
            to.2,
        ) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error.cast_signed())),
        }
        let _given = Given(descriptor);
        Ok(Access { user: user()?, owner: text(owner)?, allowed: allowed(list)? })
    }
}

/// Those whom a list allows something, and what.
///
/// # Safety
/// `list` is null or a list.
unsafe fn allowed(list: *const Security::ACL) -> io::Result<Option<Vec<(String, u32)>>> {
    // SAFETY: as asked for.
    let Some(count) = (unsafe { list.as_ref() }).map(|list| list.AceCount) else { return Ok(None) };
    let mut allowed = Vec::new();
    for number in 0..count.into() {
        let mut entry = null_mut();
        // SAFETY: the list has that many entries. All that allow something begin alike.
        unsafe {
            done(Security::GetAce(list, number, &raw mut entry))?;
            let entry = entry.cast::<Security::ACCESS_ALLOWED_ACE>();
            let header = (*entry).Header;
            let is_here = u32::from(header.AceFlags) & Security::INHERIT_ONLY_ACE == 0;
            if ALLOWS.contains(&header.AceType) && is_here {
                allowed.push((text((&raw mut (*entry).SidStart).cast())?, (*entry).Mask));
            }
        }
    }
    Ok(Some(allowed))
}

/// The SID of who runs this process.
fn user() -> io::Result<String> {
    let (mut token, mut length) = (null_mut(), 0);
    // Room for the longest SID, aligned for what stands before it.
    let mut room = [0_u64; 32];
    let (to, size) = (room.as_mut_ptr(), size_of_val(&room) as u32);
    // SAFETY: what is written to is ours, and as long as it says.
    unsafe {
        done(OpenProcessToken(GetCurrentProcess(), Security::TOKEN_QUERY, &raw mut token))?;
        let _token = OwnedHandle::from_raw_handle(token);
        let asked = Security::TokenUser;
        done(Security::GetTokenInformation(token, asked, to.cast(), size, &raw mut length))?;
        text((*to.cast::<Security::TOKEN_USER>()).User.Sid)
    }
}

/// A SID as text.
///
/// # Safety
/// `sid` is one.
unsafe fn text(sid: Security::PSID) -> io::Result<String> {
    let mut text = null_mut();
    // SAFETY: as asked for; what is given ends in a zero.
    unsafe {
        done(Authorization::ConvertSidToStringSidW(sid, &raw mut text))?;
        let _given = Given(text.cast());
        let length = (0..).take_while(|at| *text.add(*at) != 0).count();
        Ok(String::from_utf16_lossy(std::slice::from_raw_parts(text, length)))
    }
}

/// Makes a file that was not there, for the user, Windows itself and administrators alone. Nobody can
/// open it before it is that, nor before it is closed.
///
/// # Errors
/// Also when there is one already.
pub fn create(path: &Path) -> io::Result<File> {
    let wanted = format!("D:P(A;;FA;;;{})(A;;FA;;;SY)(A;;FA;;;BA)\0", user()?);
    let wanted: Vec<u16> = wanted.encode_utf16().collect();
    let mut options = File::options();
    options.write(true).create_new(true).access_mode(GENERIC_WRITE | WRITE_DAC).share_mode(0);
    let file = options.open(path)?;
    let (mut descriptor, version) = (null_mut(), Authorization::SDDL_REVISION_1);
    let (to, what) = (&raw mut descriptor, Security::DACL_SECURITY_INFORMATION);
    let read = Authorization::ConvertStringSecurityDescriptorToSecurityDescriptorW;
    // SAFETY: the text ends in a zero, the handle is open, and what is written to is ours.
    unsafe {
        done(read(wanted.as_ptr(), version, to, null_mut()))?;
        let _given = Given(descriptor);
        done(Security::SetKernelObjectSecurity(file.as_raw_handle(), what, descriptor))?;
    }
    Ok(file)
}

/// Waits until no other program has this file locked, and locks it until it is closed. What is locked
/// is a byte that no file has: who reads or writes the others does not feel it.
///
/// # Errors
/// Where the file system has no locks.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    let mut place = OVERLAPPED::default();
    place.Anonymous.Anonymous.OffsetHigh = 1 << 30;
    let (file, place) = (file.as_raw_handle(), &raw mut place);
    // SAFETY: the handle is open, and waits: nothing uses the place afterwards.
    done(unsafe { LockFileEx(file, LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, place) })
}

/// Closes standard output: what is written there from now on is lost.
///
/// # Errors
/// None where there is one.
pub(crate) fn close_output() -> io::Result<()> {
    // SAFETY: the standard library asks for the handle each time, and takes none for nothing to
    // write to. So it is nobody's once it is replaced.
    unsafe {
        let output = GetStdHandle(STD_OUTPUT_HANDLE);
        done(SetStdHandle(STD_OUTPUT_HANDLE, null_mut()))?;
        drop(OwnedHandle::from_raw_handle(output));
    }
    Ok(())
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
