//! Reading `/etc/knock.d`.
