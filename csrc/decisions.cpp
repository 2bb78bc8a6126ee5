#include "decisions.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>  // for unique_ptr
#include <numeric>
#include <stdexcept>  // for runtime_error
#include <string>

#include "check.h"
#include "eigen.h"

namespace tallystick {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kResolution = 0x1p+40;  // ratio of squared norms beyond which an angle is noise

double sum(const double* a, std::size_t n) {
    double s = 0;
    for (std::size_t i = 0; i < n; ++i) s += a[i];
    return s;
}

double root(double squared) { return squared > 0 ? std::sqrt(squared) : 0; }

// ---- covariances in terms of the Gram matrix ----

// out = the Gram matrix of the chosen rows about their mean.
void centre(const double* g, std::size_t n, const Indices& rows, double* out) {
    const std::size_t m = rows.size();
    Doubles means(m);
    for (std::size_t i = 0; i < m; ++i) {
        double s = 0;
        for (std::size_t j = 0; j < m; ++j) s += g[rows[i] * n + rows[j]];
        means[i] = s / static_cast<double>(m);
    }
    const double all = sum(means.data(), m) / static_cast<double>(m);
    for (std::size_t i = 0; i < m; ++i)
        for (std::size_t j = 0; j < m; ++j)
            out[i * m + j] = g[rows[i] * n + rows[j]] - means[i] - means[j] + all;
}

// ---- MDA ----

// Pairs of rows that cannot both be kept, and the search for at most `budget` rows that cover all of them.
class Conflicts {
  public:
    Conflicts(const double* table, std::size_t n, double limit) : n_(n), words_((n + 63) / 64) {
        pairs_.assign(n * words_, 0);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < n; ++j)
                if (table[i * n + j] > limit) pairs_[i * words_ + j / 64] |= std::uint64_t{1} << j % 64;
    }

    using Set = std::vector<std::uint64_t>;

    Set all() const {
        Set set(words_, 0);
        for (std::size_t i = 0; i < n_; ++i) set[i / 64] |= std::uint64_t{1} << i % 64;
        return set;
    }
    static bool has(const Set& set, std::size_t i) { return set[i / 64] >> i % 64 & 1; }
    static void drop(Set& set, std::size_t i) { set[i / 64] &= ~(std::uint64_t{1} << i % 64); }

    std::size_t degree(const Set& alive, std::size_t i) const {
        std::size_t count = 0;
        for (std::size_t w = 0; w < words_; ++w) count += std::popcount(alive[w] & pairs_[i * words_ + w]);
        return count;
    }
    // Drops the rows in conflict with i, and says how many they were.
    std::size_t drop_conflicts(Set& alive, std::size_t i) const {
        const std::size_t count = degree(alive, i);
        for (std::size_t w = 0; w < words_; ++w) alive[w] &= ~pairs_[i * words_ + w];
        return count;
    }

    // Whether dropping `budget` of the rows alive leaves no conflict.
    bool coverable(Set alive, std::size_t budget, std::uint64_t& steps) const {
        for (;;) {
            if (++steps > kSearchSteps)
                throw std::runtime_error("mda: search given up after " + std::to_string(kSearchSteps) +
                                         " steps");
            std::size_t most = 0, at = 0, ends = 0;
            for (std::size_t i = 0; i < n_; ++i) {
                if (!has(alive, i)) continue;
                const std::size_t d = degree(alive, i);
                ends += d;
                if (d > most) most = d, at = i;
            }
            if (most == 0) return true;
            if (ends > 2 * budget * most) return false;
            if (most == 1) return ends <= 2 * budget;
            if (most > budget) {  // it cannot stay
                drop(alive, at);
                --budget;
                continue;
            }
            Set without = alive;
            drop(without, at);
            if (coverable(without, budget - 1, steps)) return true;
            budget -= drop_conflicts(alive, at);  // it stays: those in conflict with it go
            drop(alive, at);
        }
    }

  private:
    std::size_t n_, words_;
    Set pairs_;
};

// ---- SMEA ----

// The subset of least top eigenvalue among all of n - f rows. A subset's spread within any subspace is a
// lower bound of it: nearly all subsets are ruled out by the few directions along which evaluated ones spread
// most.
class Smea {
  public:
    Smea(const double* g, std::size_t n, std::size_t f)
        : g_(g), n_(n), keep_(n - f), kept_(keep_), matrix_(n * n), vector_(n), along_(n * kMost) {}

    Indices search() {
        start();
        Indices removed(n_ -
                        keep_);  // ascending; kept subsets in lexicographic order: removed in the reverse
        std::iota(removed.begin(), removed.end(), keep_);
        do consider(removed);
        while (previous(removed));
        return tied_.empty() ? best_rows_ : tied_.front().rows;  // empty: the bounds left float64
    }

  private:
    struct Subset {
        double value;
        Indices rows;
    };

    // The main directions of all rows; then a good subset soon: the first one, and the one left when the row
    // farthest along the top direction leaves, f times.
    void start() {
        Indices rows(n_);
        std::iota(rows.begin(), rows.end(), 0);
        Doubles centred(n_ * n_);
        centre(g_, n_, rows, centred.data());
        double first = 0;
        for (std::size_t k = 0; k < std::min(kFirst, n_); ++k) {
            std::copy(centred.begin(), centred.end(), matrix_.begin());
            const double value = top_eigenpair(matrix_.data(), n_, vector_.data());
            if (k == 0) first = value;
            if (!(value > 1e-9 * first)) break;  // what is left is rounding
            remember(rows);
            for (std::size_t i = 0; i < n_; ++i)
                for (std::size_t j = 0; j < n_; ++j) centred[i * n_ + j] -= value * vector_[i] * vector_[j];
        }
        while (rows.size() > keep_) {
            centre(g_, n_, rows, matrix_.data());
            top_eigenpair(matrix_.data(), rows.size(), vector_.data());
            std::size_t far = 0;
            for (std::size_t i = 1; i < rows.size(); ++i)
                if (std::fabs(vector_[i]) > std::fabs(vector_[far])) far = i;
            rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(far));
        }
        Indices lowest(keep_);
        std::iota(lowest.begin(), lowest.end(), 0);
        evaluate(lowest);
        evaluate(rows);
    }

    double evaluate(const Indices& rows) {
        centre(g_, n_, rows, matrix_.data());
        const double value = top_eigenpair(matrix_.data(), keep_, vector_.data());
        if (best_rows_.empty() || value < best_) best_ = value, best_rows_ = rows;
        remember(rows);
        return value;
    }

    // What a subset's eigenvalue must not exceed to matter: after one that ties with the least, only a lower
    // one does.
    double limit() const { return tied_.empty() ? tie() : std::min(tie(), tied_.back().value); }
    double tie() const { return best_ + kSmeaTie * std::fabs(best_); }

    // Keeps the subset if the answer may be it: tied_ ties with the least, later subsets having lower values.
    void offer(double value, const Indices& rows) {
        if (!(value <= limit()) || (!tied_.empty() && value == tied_.back().value)) return;
        tied_.push_back({value, rows});
        const auto over = [least = tie()](const Subset& s) { return s.value > least; };
        tied_.erase(tied_.begin(), std::find_if_not(tied_.begin(), tied_.end(), over));
    }

    // Adds the direction sum_k vector_k (x_rows[k] - their mean), made orthogonal to those known: along_
    // holds every row's value along each.
    void remember(const Indices& rows) {
        if (directions_ == kMost) return;
        const std::size_t m = rows.size();
        const double mean = sum(vector_.data(), m) / static_cast<double>(m);
        Doubles made(n_);
        for (std::size_t i = 0; i < n_; ++i) {
            double s = 0;
            for (std::size_t k = 0; k < m; ++k) s += g_[i * n_ + rows[k]] * (vector_[k] - mean);
            made[i] = s;
        }
        double squared = 0;
        for (std::size_t k = 0; k < m; ++k) squared += made[rows[k]] * (vector_[k] - mean);
        double left = squared;
        for (std::size_t d = 0; d < directions_; ++d) {
            double share = 0;
            for (std::size_t k = 0; k < m; ++k) share += along_[rows[k] * kMost + d] * (vector_[k] - mean);
            for (std::size_t i = 0; i < n_; ++i) made[i] -= share * along_[i * kMost + d];
            left -= share * share;
        }
        if (!(left > 1e-6 * squared)) return;
        const double norm = std::sqrt(left);
        for (std::size_t i = 0; i < n_; ++i) along_[i * kMost + directions_] = made[i] / norm;
        ++directions_;
        trace_ = 0;
        std::fill(sums_, sums_ + kMost, 0.0);
        std::fill(squares_, squares_ + kMost * kMost, 0.0);
        for (std::size_t i = 0; i < n_; ++i) add(i, 1, sums_, squares_);
        for (std::size_t d = 0; d < directions_; ++d) trace_ += squares_[d * kMost + d];
    }

    void add(std::size_t row, double sign, double* sums, double* squares) const {
        const double* p = &along_[row * kMost];
        for (std::size_t d = 0; d < directions_; ++d) {
            const double signed_ = sign * p[d];
            sums[d] += signed_;
            for (std::size_t e = 0; e <= d; ++e) squares[d * kMost + e] += signed_ * p[e];
        }
    }

    // Whether the covariance with these sums spreads beyond the limit along some direction: whether
    // (limit + slack) I less it is not positive definite (elimination without square roots, k^3 / 6).
    bool ruled_out(const double* sums, double* squares, double slack) const {
        const std::size_t k = directions_;
        for (std::size_t d = 0; d < k; ++d) {
            for (std::size_t e = 0; e <= d; ++e)
                squares[d * kMost + e] =
                    sums[d] * sums[e] / static_cast<double>(keep_) - squares[d * kMost + e];
            squares[d * kMost + d] += limit() + slack;
        }
        for (std::size_t d = 0; d < k; ++d) {
            const double pivot = squares[d * kMost + d];
            if (!(pivot > 0)) return true;
            for (std::size_t r = d + 1; r < k; ++r) {
                const double factor = squares[r * kMost + d] / pivot;
                for (std::size_t e = d + 1; e <= r; ++e)
                    squares[r * kMost + e] -= factor * squares[e * kMost + d];
            }
        }
        return false;
    }

    void consider(const Indices& removed) {
        double sums[kMost], squares[kMost * kMost];
        std::copy(sums_, sums_ + kMost, sums);
        std::copy(squares_, squares_ + kMost * kMost, squares);
        for (const std::size_t i : removed) add(i, -1, sums, squares);
        if (ruled_out(sums, squares, 1e-12 * trace_)) return;
        std::size_t at = 0, skip = 0;
        for (std::size_t i = 0; i < n_; ++i) {
            if (skip < removed.size() && removed[skip] == i)
                ++skip;
            else
                kept_[at++] = i;
        }
        if (best_ == 0 && !tied_.empty()) return;
        if (1e-12 * trace_ > 1e-9 * best_) {  // far rows were subtracted: their sums without them
            std::fill(sums, sums + kMost, 0.0);
            std::fill(squares, squares + kMost * kMost, 0.0);
            for (const std::size_t i : kept_) add(i, 1, sums, squares);
            double trace = 0;
            for (std::size_t d = 0; d < directions_; ++d) trace += squares[d * kMost + d];
            if (trace > 0 && ruled_out(sums, squares, 1e-12 * trace)) return;
        }
        offer(evaluate(kept_), kept_);
    }

    // The combination before this one in lexicographic order.
    bool previous(Indices& c) const {
        for (std::size_t k = c.size(); k-- > 0;) {
            const std::size_t lowest = k > 0 ? c[k - 1] + 1 : 0;
            if (c[k] == lowest) continue;
            --c[k];
            for (std::size_t l = k + 1; l < c.size(); ++l) c[l] = n_ - (c.size() - l);
            return true;
        }
        return false;
    }

    static constexpr std::size_t kFirst = 4, kMost = 24;
    const double* g_;
    std::size_t n_, keep_, directions_ = 0;
    Indices kept_, best_rows_;
    std::vector<Subset> tied_;
    Doubles matrix_, vector_, along_;
    double sums_[kMost] = {}, squares_[kMost * kMost] = {}, trace_ = 0, best_ = kInfinity;
};

}  // namespace

std::size_t medoid(const double* table, std::size_t n) {
    std::size_t best = 0, most = 0;
    double least = kInfinity;
    for (std::size_t i = 0; i < n; ++i) {
        std::size_t near = 0;
        double total = 0;
        for (std::size_t j = 0; j < n; ++j)
            if (table[i * n + j] < kFar) ++near, total += table[i * n + j];
        if (near > most || (near == most && total < least)) best = i, most = near, least = total;
    }
    return best;
}

void gram(const double* table, std::size_t n, std::size_t base, double* out, bool* far) {
    const double* to = table + base * n;
    for (std::size_t i = 0; i < n; ++i) far[i] = !(to[i] < kFar);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j) {
            double g = 0;
            if (!far[i] && !far[j]) {
                const double low = std::min(to[i], to[j]), high = std::max(to[i], to[j]);
                const double bound = std::sqrt(low) * std::sqrt(high);
                if (i == j)
                    g = high;
                else if (high <= low * kResolution)
                    g = std::clamp((low + high - table[i * n + j]) / 2, -bound, bound);
            }
            out[i * n + j] = out[j * n + i] = g;
        }
}

void product(const double* a, const double* b, std::size_t m, std::size_t k, std::size_t n, double* out) {
    std::fill(out, out + m * n, 0.0);
    for (std::size_t r = 0; r < m; ++r)
        for (std::size_t i = 0; i < k; ++i)
            if (const double w = a[r * k + i]; w != 0)
                for (std::size_t c = 0; c < n; ++c) out[r * n + c] += w * b[i * n + c];
}

void mixed_distances(const double* table, std::size_t n, const double* matrix, std::size_t m, double* out) {
    Doubles g(n * n), b(m * n);
    const auto far = std::make_unique<bool[]>(n);
    gram(table, n, medoid(table, n), g.data(), far.get());
    std::vector<bool> beyond(m, false);
    for (std::size_t r = 0; r < m; ++r) {
        for (std::size_t j = 0; j < n; ++j) {
            b[r * n + j] = dot(&g[j * n], matrix + r * n, n);
            if (far[j] && matrix[r * n + j] != 0) beyond[r] = true;
        }
    }
    Doubles squared(m);
    for (std::size_t r = 0; r < m; ++r) squared[r] = dot(&b[r * n], matrix + r * n, n);
    for (std::size_t r = 0; r < m; ++r)
        for (std::size_t s = 0; s <= r; ++s) {
            const double rs = dot(&b[r * n], matrix + s * n, n), sr = dot(&b[s * n], matrix + r * n, n);
            double d = squared[r] + squared[s] - (rs + sr);  // equal rows: equal bits, whichever comes first
            if (std::equal(matrix + r * n, matrix + (r + 1) * n, matrix + s * n))
                d = 0;
            else if (beyond[r] || beyond[s])
                d = kInfinity;
            out[r * m + s] = out[s * m + r] = d > 0 ? d : 0;
        }
}

Indices bulyan(const double* table, std::size_t n, std::size_t f, std::size_t away, std::size_t count,
               double* scores) {
    VERIFY(count <= n);
    std::vector<std::uint32_t> order(n * n);  // per row, the others by distance
    for (std::size_t i = 0; i < n; ++i) {
        std::uint32_t* row = &order[i * n];
        std::iota(row, row + n, 0u);
        std::swap(row[0], row[i]);
        const double* d = table + i * n;
        std::sort(row + 1, row + n,
                  [d](std::uint32_t a, std::uint32_t b) { return d[a] < d[b] || (d[a] == d[b] && a < b); });
    }
    std::vector<bool> gone(n, false);
    Indices chosen;
    for (std::size_t left = n; chosen.size() < count; --left) {
        const std::size_t neighbors = left > f + away ? left - f - away : 1;
        std::size_t best = n;
        for (std::size_t i = 0; i < n; ++i) {
            if (gone[i]) continue;
            double score = 0;
            for (std::size_t k = 1, taken = 0; k < n && taken < neighbors; ++k) {
                const std::uint32_t j = order[i * n + k];
                if (!gone[j]) score += table[i * n + j], ++taken;
            }
            scores[i] = score;
            if (best == n || score < scores[best]) best = i;
        }
        gone[best] = true;
        chosen.push_back(best);
    }
    return chosen;
}

Indices mda(const double* table, std::size_t n, std::size_t f) {
    VERIFY(2 * f < n);
    Doubles limits(table, table + n * n);  // with the diagonal's 0: a diameter
    std::sort(limits.begin(), limits.end());
    limits.erase(std::unique(limits.begin(), limits.end()), limits.end());
    std::uint64_t steps = 0;
    std::size_t low = 0, high = limits.size() - 1;
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        const Conflicts conflicts(table, n, limits[middle]);
        if (conflicts.coverable(conflicts.all(), f, steps))
            high = middle;
        else
            low = middle + 1;
    }
    const Conflicts conflicts(table, n, limits[low]);
    Conflicts::Set alive = conflicts.all();
    Indices kept;
    for (std::size_t i = 0, budget = f; kept.size() < n - f && i < n; ++i) {
        if (!Conflicts::has(alive, i)) continue;
        Conflicts::Set with = alive;
        const std::size_t cost = conflicts.drop_conflicts(with, i);
        if (cost <= budget && conflicts.coverable(with, budget - cost, steps)) {
            alive = with, budget -= cost;
            kept.push_back(i);
        } else {
            Conflicts::drop(alive, i), --budget;
        }
    }
    VERIFY(kept.size() == n - f);
    return kept;
}

void weiszfeld(const double* table, std::size_t n, std::size_t start, const double* shares, double nu,
               std::size_t iterations, double* weights, double* scores) {
    Doubles g(n * n), gw(n), squared(n);
    const auto far = std::make_unique<bool[]>(n);
    gram(table, n, medoid(table, n), g.data(), far.get());
    const auto measure = [&] {
        for (std::size_t i = 0; i < n; ++i) gw[i] = dot(&g[i * n], weights, n);
        const double all = dot(gw.data(), weights, n);
        for (std::size_t i = 0; i < n; ++i) squared[i] = far[i] ? kInfinity : g[i * n + i] - 2 * gw[i] + all;
    };
    const auto set = [&](auto&& weight) {  // to shares * weight, sum 1
        double total = 0;
        for (std::size_t i = 0; i < n; ++i) total += weights[i] = far[i] ? 0 : shares[i] * weight(i);
        if (!(total > 0)) return false;
        for (std::size_t i = 0; i < n; ++i) weights[i] /= total;
        return true;
    };
    const auto plain = [](std::size_t) { return 1.0; };
    set(plain);
    measure();
    if (start < n && iterations > 0) std::copy(table + start * n, table + (start + 1) * n, squared.begin());
    if (start < n && iterations == 0) std::fill(weights, weights + n, 0.0), weights[start] = 1, measure();
    for (std::size_t t = 0; t < iterations; ++t) {
        if (!set([&](std::size_t i) { return 1 / std::max(root(squared[i]), nu); })) set(plain);
        measure();
    }
    for (std::size_t i = 0; i < n; ++i) scores[i] = root(squared[i]);
}

void centered_clipping(const double* table, std::size_t n, std::size_t start, const double* shares,
                       double tau, std::size_t iterations, double* weights, double* scores) {
    Doubles g(n * n), gw(n), distances(n);
    const auto far = std::make_unique<bool[]>(n);
    gram(table, n, medoid(table, n), g.data(), far.get());
    std::fill(weights, weights + n, 0.0);
    weights[start] = 1;
    for (std::size_t i = 0; i < n; ++i) distances[i] = root(table[start * n + i]);
    for (std::size_t t = 0; t < iterations; ++t) {
        double total = 0;
        for (std::size_t i = 0; i < n; ++i) {
            const double clip = distances[i] > tau ? tau / distances[i] : 1;
            gw[i] = shares[i] * clip;
            total += gw[i];
        }
        for (std::size_t i = 0; i < n; ++i) weights[i] = weights[i] * (1 - total) + gw[i];
        for (std::size_t i = 0; i < n; ++i) gw[i] = dot(&g[i * n], weights, n);
        const double all = dot(gw.data(), weights, n);
        for (std::size_t i = 0; i < n; ++i)
            distances[i] = far[i] ? kInfinity : root(g[i * n + i] - 2 * gw[i] + all);
    }
    std::copy(distances.begin(), distances.end(), scores);
}

void caf(const double* g, std::size_t n, std::size_t f, double* weights) {
    Doubles c(n, 1.0), p(n), gp(n), matrix(n * n), vector(n), along(n);
    std::fill(weights, weights + n, 1 / static_cast<double>(n));
    double best = kInfinity, total = static_cast<double>(n);
    const double enough = static_cast<double>(n) - 2 * static_cast<double>(f);
    Indices rows;
    while (total > enough) {
        rows.clear();
        for (std::size_t i = 0; i < n; ++i) {
            p[i] = c[i] / total;
            if (c[i] > 0) rows.push_back(i);
        }
        const std::size_t m = rows.size();
        double all = 0;
        for (const std::size_t i : rows) all += p[i] * (gp[i] = dot(g + i * n, p.data(), n));
        for (std::size_t a = 0; a < m; ++a)
            for (std::size_t b = 0; b < m; ++b) {
                const std::size_t i = rows[a], j = rows[b];
                matrix[a * m + b] = std::sqrt(p[i]) * std::sqrt(p[j]) * (g[i * n + j] - gp[i] - gp[j] + all);
            }
        const Doubles covariance(matrix.begin(), matrix.begin() + m * m);
        const double value = top_eigenpair(matrix.data(), m, vector.data());
        if (value < best) best = value, std::copy(p.begin(), p.end(), weights);
        double most = 0;
        for (std::size_t a = 0; a < m; ++a) {  // value along the top direction, up to a common factor
            along[a] = dot(&covariance[a * m], vector.data(), m);
            along[a] *= along[a] / p[rows[a]];
            most = std::max(most, along[a]);
        }
        if (!(most > 0)) return;  // all equal
        for (std::size_t a = 0; a < m; ++a) c[rows[a]] *= 1 - along[a] / most;
        total = sum(c.data(), n);
    }
}

Indices smea(const double* g, std::size_t n, std::size_t f) {
    VERIFY(2 * f < n);
    return Smea(g, n, f).search();
}

void principal_scores(const double* g, std::size_t n, double* out) {
    Indices rows(n);
    std::iota(rows.begin(), rows.end(), 0);
    Doubles matrix(n * n), vector(n);
    centre(g, n, rows, matrix.data());
    const double value = top_eigenpair(matrix.data(), n, vector.data());
    for (std::size_t i = 0; i < n; ++i) out[i] = value > 0 ? value * vector[i] * vector[i] : 0;
}

}  // namespace tallystick
