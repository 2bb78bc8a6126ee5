// CRC-32C (Castagnoli, RFC 3720 appendix B.4): the checksum of frame sections, against damage, not against
// forgery.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tallystick {

// CRC-32C of `size` bytes at any alignment, going on from the crc of the bytes before them (0: none).
std::uint32_t crc32c(const std::uint8_t* data, std::size_t size, std::uint32_t crc);

}  // namespace tallystick
