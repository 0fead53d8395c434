// An address in the core's own L1 as a pointer: the one way from addresses to memory that the emulation knows, since
// cores have their L1 at different places of the host's memory. (A plain cast does not compile: -Wint-to-pointer-cast.)
#pragma once
#include <cstddef>
#include <cstdint>

#include "calls.h"

template <typename T, typename AddressType = uintptr_t>
class CoreLocalMem {
    using difference_type = std::ptrdiff_t;

public:
    CoreLocalMem(AddressType address)
        : address_(address) {}
    CoreLocalMem(T* ptr)
        : address_(emulation::l1_address(ptr)) {}

    T* get_unsafe_ptr() const { return static_cast<T*>(emulation::l1_pointer(uint32_t(address_), sizeof(T))); }
    AddressType get_address() const { return address_; }

    T& operator[](uint32_t index) const { return *(*this + index).get_unsafe_ptr(); }
    T& operator*() const { return *get_unsafe_ptr(); }
    T* operator->() const { return get_unsafe_ptr(); }

    CoreLocalMem& operator+=(difference_type offset) {
        address_ += AddressType(offset * difference_type(sizeof(T)));
        return *this;
    }
    CoreLocalMem& operator-=(difference_type offset) { return *this += -offset; }
    CoreLocalMem& operator++() { return *this += 1; }
    CoreLocalMem& operator--() { return *this -= 1; }
    CoreLocalMem operator+(difference_type offset) const { return CoreLocalMem(*this) += offset; }
    CoreLocalMem operator-(difference_type offset) const { return CoreLocalMem(*this) -= offset; }
    difference_type operator-(const CoreLocalMem& other) const {
        return (difference_type(address_) - difference_type(other.address_)) / difference_type(sizeof(T));
    }

    bool operator==(const CoreLocalMem& other) const { return address_ == other.address_; }
    bool operator!=(const CoreLocalMem& other) const { return address_ != other.address_; }
    bool operator<(const CoreLocalMem& other) const { return address_ < other.address_; }
    explicit operator bool() const { return address_ != 0; }

private:
    AddressType address_;
};
