// A column rule over virtual clients, which are linear combinations of the clients (nearest neighbour mixing,
// bucketing): out = rule(y), y = matrix times rows, a tile of columns at a time. Rows as in aggregate.h.
//
// y_r has the format of the rows, as if it had been computed and stored; the rule is then that of
// aggregate.h, to the bit. Every step is in float64, its order is fixed, and sums only add: a total minus the
// excluded clients would let one far client wash out the others.
//   equal    row r has one nonzero value w: clients four by four, 4q .. 4q + 3. Of those whose entry is not
//   0,
//            (x_0 + x_1) + (x_2 + x_3), the absent left out; s = s + that, upwards from 0; then y = w * s
//   else     s = fma(w_i, x_i, s) from 0, clients in order, entries of 0 left out; y = s
//   format   y rounded once; beyond the format, also by overflow on the way, its largest value of that sign
//            (opposite infinities: the positive one); a zero is +0
#pragma once
#include "aggregate.h"
#include "column_rules.h"

namespace tallystick {

struct Matrix {
    const double* values;  // m x n, finite
    std::size_t m;
};

// rule: of column_rules.h. Returns the clients with a NaN or infinity, whatever their entries; out is
// unspecified if there are any.
Clients mixed(const Rows& rows, const Matrix& matrix, const ColumnRule& rule, void* out);

}  // namespace tallystick
