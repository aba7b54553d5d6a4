//! Windows, where the standard library has no words for it: who may use a file, files that are their
//! maker's alone, a lock that readers do not feel, and the end of standard output.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo,
    SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACL, DACL_SECURITY_INFORMATION, GetAce, GetTokenInformation,
    INHERIT_ONLY_ACE, OWNER_SECURITY_INFORMATION, PSID, SECURITY_ATTRIBUTES, TOKEN_QUERY,
    TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, LOCKFILE_EXCLUSIVE_LOCK, LockFileEx,
};
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
    let (mut owner, mut list, mut descriptor) = (null_mut(), null_mut::<ACL>(), null_mut());
    let asked = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // SAFETY: the handle is open; the places that are written to are ours, and the others left out.
    let status = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            asked,
            &raw mut owner,
            null_mut(),
            &raw mut list,
            null_mut(),
            &raw mut descriptor,
        )
    };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status.cast_signed()));
    }
    let _given = Given(descriptor);
    // SAFETY: owner and list are parts of the descriptor, which lives until the end of this function.
    let (owner, allowed) = unsafe { (text(owner)?, allowed(list)?) };
    Ok(Access { user: user()?, owner, allowed })
}

/// Those whom a list allows something, and what.
///
/// # Safety
/// `list` is null or a list.
unsafe fn allowed(list: *const ACL) -> io::Result<Option<Vec<(String, u32)>>> {
    // SAFETY: as asked for.
    let Some(count) = (unsafe { list.as_ref() }).map(|list| list.AceCount) else { return Ok(None) };
    let mut allowed = Vec::new();
    for number in 0..u32::from(count) {
        let mut entry = null_mut();
        // SAFETY: the list has that many entries. All that allow something begin alike.
        unsafe {
            done(GetAce(list, number, &raw mut entry))?;
            let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
            let header = (*entry).Header;
            let is_here = u32::from(header.AceFlags) & INHERIT_ONLY_ACE == 0;
            if ALLOWS.contains(&header.AceType) && is_here {
                allowed.push((text((&raw mut (*entry).SidStart).cast())?, (*entry).Mask));
            }
        }
    }
    Ok(Some(allowed))
}

/// The SID of who runs this process.
fn user() -> io::Result<String> {
    let mut token = null_mut();
    let (mut buffer, mut length) = ([0_u64; 32], 0);
    // SAFETY: the buffer has room for the longest SID, and is aligned for what is written to it.
    unsafe {
        done(OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token))?;
        let token = OwnedHandle::from_raw_handle(token);
        let (buffer, size) = (buffer.as_mut_ptr(), size_of_val(&buffer) as u32);
        let token = token.as_raw_handle();
        done(GetTokenInformation(token, TokenUser, buffer.cast(), size, &raw mut length))?;
        text((*buffer.cast::<TOKEN_USER>()).User.Sid)
    }
}

/// A SID as text.
///
/// # Safety
/// `sid` is one.
unsafe fn text(sid: PSID) -> io::Result<String> {
    let mut text = null_mut();
    // SAFETY: as asked for; what is given ends in a zero.
    unsafe {
        done(ConvertSidToStringSidW(sid, &raw mut text))?;
        let _given = Given(text.cast());
        let length = (0..).take_while(|at| *text.add(*at) != 0).count();
        Ok(String::from_utf16_lossy(std::slice::from_raw_parts(text, length)))
    }
}

/// Makes a file that was not there, for the user, Windows itself and administrators alone.
///
/// # Errors
/// Also when there is one already.
pub fn create(path: &Path) -> io::Result<File> {
    let user = user()?;
    let wanted = format!("O:{user}D:P(A;;FA;;;{user})(A;;FA;;;SY)(A;;FA;;;BA)");
    let wanted: Vec<u16> = wanted.encode_utf16().chain([0]).collect();
    let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let mut descriptor = null_mut();
    // SAFETY: both texts end in a zero, and what is written to is ours.
    unsafe {
        let revision = SDDL_REVISION_1;
        done(ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wanted.as_ptr(),
            revision,
            &raw mut descriptor,
            null_mut(),
        ))?;
        let _given = Given(descriptor);
        let attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: descriptor,
            bInheritHandle: 0,
        };
        let shared = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
        let handle = CreateFileW(
            name.as_ptr(),
            GENERIC_WRITE,
            shared,
            &raw const attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        );
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_handle(handle))
    }
}

/// Waits until no other program has this file locked, and locks it until it is closed. What is locked
/// is a byte that no file has: who reads or writes the others does not feel it.
///
/// # Errors
/// Where the file system has no locks.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    let mut place = OVERLAPPED::default();
    place.Anonymous.Anonymous.OffsetHigh = 1 << 30;
    // SAFETY: the handle is open, and waits: nothing uses the place afterwards.
    done(unsafe {
        LockFileEx(file.as_raw_handle(), LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, &raw mut place)
    })
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
