//! Working memory for secrets that is overwritten when it goes out of scope, as fast as memory is written.
//!
//! `zeroize` does the same for everything that is small or lives long; it writes byte by byte, which for the scratch
//! of a batch would take as long as the hashing.

use core::ops::{Deref, DerefMut};

/// Plain numbers, and arrays of them: all that scratch memory holds.
pub(crate) trait Zero: Copy {
    /// The value of which all bits are zero.
    const ZERO: Self;
}

impl Zero for u8 {
    const ZERO: Self = 0;
}

impl Zero for u32 {
    const ZERO: Self = 0;
}

impl Zero for u64 {
    const ZERO: Self = 0;
}

impl<T: Zero, const N: usize> Zero for [T; N] {
    const ZERO: Self = [T::ZERO; N];
}

/// A value that begins as zeros and ends as zeros.
pub(crate) struct Scratch<T: Zero>(T);

impl<T: Zero> Scratch<T> {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(T::ZERO)
    }
}

impl<T: Zero> From<T> for Scratch<T> {
    #[inline(always)]
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zero> Deref for Scratch<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Zero> DerefMut for Scratch<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zero> Drop for Scratch<T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0 = T::ZERO;
        // Without this the compiler would see that nobody reads the zeros.
        zeroize::optimization_barrier(&self.0);
    }
}
