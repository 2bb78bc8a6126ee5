#include "mix_plan.h"

#include <algorithm>
#include <map>

namespace tallystick {
namespace {

struct Row {
    std::vector<MixEntry> entries;
    bool equal = true;
};

Row row_of_matrix(const double* values, std::size_t n) {
    Row row;
    for (std::size_t i = 0; i < n; ++i)
        if (values[i] != 0) row.entries.push_back({static_cast<std::uint32_t>(i), values[i]});
    for (const MixEntry& e : row.entries) row.equal = row.equal && e.weight == row.entries[0].weight;
    return row;
}

}  // namespace

MixOwner::MixOwner(const Matrix& matrix, std::size_t n) : plan{}, row_of(matrix.m) {
    std::map<std::vector<double>, std::size_t> seen;  // -0 and 0 compare equal
    std::vector<Row> equal, other;
    std::vector<std::pair<bool, std::size_t>> place;  // of each different row: in equal or other, and where
    std::size_t members = 0;
    for (std::size_t r = 0; r < matrix.m; ++r) {
        const double* values = matrix.values + r * n;
        const auto [at, fresh] = seen.try_emplace(std::vector<double>(values, values + n), place.size());
        row_of[r] = at->second;
        if (!fresh) continue;
        Row row = row_of_matrix(values, n);
        std::vector<Row>& kind = row.equal ? equal : other;
        place.emplace_back(row.equal, kind.size());
        members += row.equal ? row.entries.size() : 0;
        kind.push_back(std::move(row));
    }
    plan.n = n;
    plan.bounded = true;
    for (const auto& [values, row] : seen) {
        double size = 0;
        for (const double w : values) size += w < 0 ? -w : w;
        plan.bounded = plan.bounded && size <= 1 + 0x1p-40;  // with what rounding adds
    }
    plan.quads = (n + 3) / 4;
    const std::size_t groups = (plan.quads + kQuadsAtOnce - 1) / kQuadsAtOnce;
    plan.group = (plan.quads + groups - 1) / groups;
    // In vectors read or written: a table of 15 sums for every quad, then one sum for every quad and row;
    // or all clients widened, then one sum for every member.
    const bool tables = plan.quads * (30 + equal.size()) < 2 * n + 3 * members;
    plan.tabled = tables ? equal.size() : 0;
    for (std::size_t& r : row_of) {
        const auto [is_equal, at] = place[r];
        r = is_equal ? at : equal.size() + at;
    }
    slots_.assign((plan.tabled + 7) / 8 * 8 * plan.quads, 0);
    for (std::size_t r = 0; r < plan.tabled; ++r) {
        scales_.push_back(equal[r].entries.empty() ? 0 : equal[r].entries[0].weight);
        std::uint16_t* const slots = slots_.data() + r / 8 * 8 * plan.quads + r % 8;
        for (std::size_t q = 0; q < plan.quads; ++q)
            slots[8 * q] = static_cast<std::uint16_t>(q % plan.group * 16 * (kSlot / kSlotUnit));
        for (const MixEntry& e : equal[r].entries)
            slots[e.client / 4 * 8] += static_cast<std::uint16_t>((1u << e.client % 4) * (kSlot / kSlotUnit));
    }
    std::vector<Row> listed = std::move(other);
    if (!tables) listed.insert(listed.begin(), equal.begin(), equal.end());
    for (const Row& row : listed) entries_.insert(entries_.end(), row.entries.begin(), row.entries.end());
    const MixEntry* first = entries_.data();
    for (const Row& row : listed) {
        list_.push_back(
            {first, first + row.entries.size(), row.entries.empty() ? 0 : row.entries[0].weight, row.equal});
        first += row.entries.size();
    }
    plan.slots = slots_.data();
    plan.scales = scales_.data();
    plan.lists = list_.size();
    plan.list = list_.data();
}

}  // namespace tallystick
