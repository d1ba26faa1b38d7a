//! Who a member is: a [secret](Identity), and the [commitment](Commitment) to it that everybody knows.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    path::Path,
    str::FromStr,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use rln::prelude::{Fr, Hasher, PoseidonHash, SecretFr};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::field;

/// No number below the order of the field, in 32 little-endian bytes or 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "not an element of the field: it takes 64 hex digits, little-endian, of a number below BN254's order"
)]
pub struct NotAnElement;

/// The public half of an [`Identity`]: Poseidon of its secret. Written as 64 hex digits, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// From 32 bytes, little-endian.
    ///
    /// # Errors
    /// They are no element of the field.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, NotAnElement> {
        field::from_bytes(&bytes).ok_or(NotAnElement)?;
        Ok(Self(bytes))
    }

    /// 32 bytes, little-endian.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn element(&self) -> Fr {
        // Checked when it was made.
        field::from_bytes(&self.0).unwrap_or_default()
    }
}

impl FromStr for Commitment {
    type Err = NotAnElement;

    fn from_str(text: &str) -> Result<Self, NotAnElement> {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| NotAnElement)?;
        Self::from_bytes(bytes.try_into().map_err(|_| NotAnElement)?)
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member's secret. Wiped when it is dropped, never shown by `{:?}`.
///
/// What is computed from it inside `rln` (the witness of a proof) is wiped only as far as that crate does it.
#[derive(Clone)]
pub struct Identity {
    secret: SecretFr,
    commitment: Commitment,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("commitment", &self.commitment)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// The operating system gives no entropy.
    pub fn generate() -> io::Result<Self> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut bytes[..]).map_err(io::Error::other)?;
            // The order has 254 bits; two of three such numbers are below it.
            bytes[31] &= 0x3f;
            if let Ok(identity) = Self::from_bytes(&bytes) {
                return Ok(identity);
            }
        }
    }

    /// From the 32 bytes of the secret, little-endian: Nim's `idSecretHash`.
    ///
    /// # Errors
    /// They are no element of the field.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, NotAnElement> {
        let mut element = field::from_bytes(bytes).ok_or(NotAnElement)?;
        Ok(Self::new(SecretFr::from(&mut element)))
    }

    pub(crate) fn new(secret: SecretFr) -> Self {
        let commitment = Hasher::<PoseidonHash>::hash_single(*secret);
        Self {
            commitment: Commitment(field::to_bytes(&commitment)),
            secret,
        }
    }

    /// The identity in a file of 64 hex digits, which is made where it isn't there, for its owner only.
    ///
    /// # Errors
    /// Of the file system; or that something else is in the file.
    pub fn load_or_create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // First, so that no empty file is left where it fails.
        let identity = Self::generate()?;
        match options.open(path) {
            Ok(mut file) => {
                let mut hex = Zeroizing::new([b'\n'; 65]);
                HEXLOWER_PERMISSIVE.encode_mut(&identity.to_bytes()[..], &mut hex[..64]);
                file.write_all(&hex[..])?;
                file.sync_all()?;
                Ok(identity)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // One byte more than a secret has, so that longer files are seen to be something else.
                let mut text = Zeroizing::new(Vec::with_capacity(128));
                OpenOptions::new()
                    .read(true)
                    .open(path)?
                    .take(128)
                    .read_to_end(&mut text)?;
                let mut bytes = Zeroizing::new([0; 32]);
                let hex = text.trim_ascii();
                if hex.len() != 64 || HEXLOWER_PERMISSIVE.decode_mut(hex, &mut bytes[..]).is_err() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, NotAnElement));
                }
                Self::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(error) => Err(error),
        }
    }

    /// The secret, 32 bytes, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(field::to_bytes(&self.secret))
    }

    /// What others know it by.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        self.commitment
    }

    pub(crate) fn secret(&self) -> SecretFr {
        self.secret.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_kept_in_a_file_of_its_owner() {
        let folder = std::env::temp_dir().join(format!("libp2p-mix-rln-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("identity");
        let made = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.to_bytes(), again.to_bytes());
        assert_eq!(made.commitment(), again.commitment());
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777,
            0o600
        );
        for wrong in ["", "zz", &"f".repeat(64), &"0".repeat(66)] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(
                Identity::load_or_create(&path).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_secret_is_not_shown() {
        let identity = Identity::generate().unwrap();
        let shown = format!("{identity:?}");
        assert!(shown.contains(&identity.commitment().to_string()));
        assert!(!shown.contains(&HEXLOWER_PERMISSIVE.encode(&identity.to_bytes()[..])));
    }
}
