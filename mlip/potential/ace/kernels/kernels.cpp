// Loops over atoms and edges of mlip.potential.ace.network for processors; mlip/potential/ace/kernels/__init__.py describes
// every function, mlip/potential/ace/edges.py and invariants.py hold the same in torch.
//
// Each loop keeps what it needs of one atom, or of one block of channels, in registers and the first cache, where
// torch's operators would send every intermediate array through memory. Vectors are the compiler's own, so that one
// source serves all processors: every exported function exists once for each CLONES target and the loader picks one.

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int BYTES = 32;
constexpr int MAX_RADIAL = 64;

template <class T> struct Vector {
    typedef T type __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
};
template <class T> using vec = typename Vector<T>::type;
template <class T> constexpr int64_t LANES = BYTES / sizeof(T);

template <class T> INLINE vec<T> load(const T *from, int64_t count) {
    if (count >= LANES<T>) return *reinterpret_cast<const vec<T> *>(from);
    vec<T> v = {};
    for (int64_t k = 0; k < count; ++k) v[k] = from[k];
    return v;
}

template <class T> INLINE void store(T *to, vec<T> v, int64_t count) {
    if (count >= LANES<T>) {
        *reinterpret_cast<vec<T> *>(to) = v;
        return;
    }
    for (int64_t k = 0; k < count; ++k) to[k] = v[k];
}

template <class T> INLINE T total(vec<T> v) {
    T sum = 0;
    for (int64_t k = 0; k < LANES<T>; ++k) sum += v[k];
    return sum;
}

constexpr int degree_of(int lm) {
    int l = 0;
    while ((l + 1) * (l + 1) <= lm) ++l;
    return l;
}

// f(0) ... f(N - 1) with constants, so that arrays indexed by them stay in registers.
template <class F, int... INDICES> INLINE void unroll(F f, std::integer_sequence<int, INDICES...>) {
    (f(std::integral_constant<int, INDICES>()), ...);
}
template <int N, class F> INLINE void repeat(F f) { unroll(f, std::make_integer_sequence<int, N>()); }
#define WITH(k) [&](auto k) __attribute__((always_inline))

// Values at a point of the sphere and at its antipode, from coefficients of even and odd degree.
template <class T, int L> INLINE void at_antipodes(const T *y, const vec<T> *u, vec<T> &here, vec<T> &there) {
    vec<T> parts[2] = {};
    repeat<(L + 1) * (L + 1)>(WITH(lm) { parts[degree_of(lm) % 2] += y[lm] * u[lm]; });
    here = parts[0] + parts[1];
    there = parts[0] - parts[1];
}

template <class T, int L> INLINE void project(const T *y, vec<T> here, vec<T> there, vec<T> *to) {
    const vec<T> parts[2] = {here + there, here - there};
    repeat<(L + 1) * (L + 1)>(WITH(lm) { to[lm] += y[lm] * parts[degree_of(lm) % 2]; });
}

// points: [n_points][1 + LM], weight and harmonics of one point of each antipodal pair.
template <class T, int L, int POWERS>
INLINE void form(int64_t begin, int64_t end, int64_t width, const T *points, int n_points, const T *fields,
                 T *products, T *invariants) {
    constexpr int LM = (L + 1) * (L + 1);
    for (int64_t j = begin; j < end; j += LANES<T>) {
        const int64_t n = end - j;
        vec<T> u[LM], t[POWERS ? POWERS : 1][LM] = {};
        repeat<LM>(WITH(lm) { u[lm] = load(fields + lm * width + j, n); });
        for (int g = 0; POWERS && g < n_points; ++g) {
            const T *y = points + g * (1 + LM) + 1;
            vec<T> here, there;
            at_antipodes<T, L>(y, u, here, there);
            vec<T> a = y[-1] * here, b = y[-1] * there;
            repeat<POWERS>(WITH(k) {
                a *= here;
                b *= there;
                project<T, L>(y, a, b, t[k]);
            });
        }
        T *row = invariants + j;
        store(row, u[0], n);
        vec<T> sums[1 + L + POWERS] = {};
        repeat<LM>(WITH(lm) {
            sums[degree_of(lm)] += u[lm] * u[lm];
            repeat<POWERS>(WITH(k) {
                sums[1 + L + k] += u[lm] * t[k][lm];
                store(products + (k * LM + lm) * width + j, t[k][lm], n);
            });
        });
        repeat<1 + L + POWERS>(WITH(k) { store(row += width, sums[k], n); });
    }
}

template <class T, int L, int POWERS>
INLINE void derive(int64_t begin, int64_t end, int64_t width, int64_t members, const T *fields, const T *products,
                   const T *slopes, T *gradient) {
    constexpr int LM = (L + 1) * (L + 1), INVARIANTS = 2 + L + POWERS;
    for (int64_t p = 0; p < members; ++p, slopes += INVARIANTS * width, gradient += LM * width)
        for (int64_t j = begin; j < end; j += LANES<T>) {
            const int64_t n = end - j;
            vec<T> pair[L + 1], higher[POWERS ? POWERS : 1];
            repeat<L + 1>(WITH(l) { pair[l] = T(2) * load(slopes + (1 + l) * width + j, n); });
            repeat<POWERS>(WITH(k) { higher[k] = T(k + 3) * load(slopes + (2 + L + k) * width + j, n); });
            repeat<LM>(WITH(lm) {
                vec<T> d = pair[degree_of(lm)] * load(fields + lm * width + j, n);
                if (lm == 0) d += load(slopes + j, n);
                repeat<POWERS>(WITH(k) { d += higher[k] * load(products + (k * LM + lm) * width + j, n); });
                store(gradient + lm * width + j, d, n);
            });
        }
}

template <class T, int L, int POWERS>
INLINE void derive_back(int64_t begin, int64_t end, int64_t width, int64_t members, const T *points, int n_points,
                        const T *fields, const T *products, const T *slopes, const T *back, T *back_fields,
                        T *back_slopes) {
    constexpr int LM = (L + 1) * (L + 1), INVARIANTS = 2 + L + POWERS;
    for (int64_t j = begin; j < end; j += LANES<T>) {
        const int64_t n = end - j;
        vec<T> u[LM], out[LM] = {}, tau[POWERS ? POWERS : 1][LM] = {};
        repeat<LM>(WITH(lm) { u[lm] = load(fields + lm * width + j, n); });
        for (int64_t p = 0; p < members; ++p) {
            const T *slope = slopes + p * INVARIANTS * width + j, *d = back + p * LM * width + j;
            T *to = back_slopes + p * INVARIANTS * width + j;
            vec<T> pair[L + 1], sums[L + 1] = {}, higher[POWERS ? POWERS : 1], sum[POWERS ? POWERS : 1] = {};
            repeat<L + 1>(WITH(l) { pair[l] = T(2) * load(slope + (1 + l) * width, n); });
            repeat<POWERS>(WITH(k) { higher[k] = T(k + 3) * load(slope + (2 + L + k) * width, n); });
            store(to, load(d, n), n);
            repeat<LM>(WITH(lm) {
                const vec<T> own = load(d + lm * width, n);
                out[lm] += pair[degree_of(lm)] * own;
                sums[degree_of(lm)] += u[lm] * own;
                repeat<POWERS>(WITH(k) {
                    tau[k][lm] += higher[k] * own;
                    sum[k] += load(products + (k * LM + lm) * width + j, n) * own;
                });
            });
            repeat<L + 1>(WITH(l) { store(to += width, T(2) * sums[l], n); });
            repeat<POWERS>(WITH(k) { store(to += width, T(k + 3) * sum[k], n); });
        }
        for (int g = 0; POWERS && g < n_points; ++g) {
            const T *y = points + g * (1 + LM) + 1;
            vec<T> here, there, a = {}, b = {};
            at_antipodes<T, L>(y, u, here, there);
            vec<T> power_here = y[-1] * here, power_there = y[-1] * there;
            repeat<POWERS>(WITH(k) {
                vec<T> tau_here, tau_there;
                at_antipodes<T, L>(y, tau[k], tau_here, tau_there);
                a += T(k + 2) * power_here * tau_here;
                b += T(k + 2) * power_there * tau_there;
                power_here *= here;
                power_there *= there;
            });
            project<T, L>(y, a, b, out);
        }
        repeat<LM>(WITH(lm) { store(back_fields + lm * width + j, out[lm], n); });
    }
}

// Arrays of one atom's edges, as in Environments. The first four may be those of a larger set, of which atom i has row
// shared[i].
template <class T> struct Edges {
    const T *radial, *radial_slope, *angular, *angular_slope, *direction, *distance;
    const int64_t *shared;
    int64_t slots, n_radial, n_angular;

    INLINE Edges at(int64_t atom) const {
        Edges e = *this;
        const int64_t row = shared ? shared[atom] : atom;
        e.radial += row * n_radial * slots;
        e.radial_slope += row * n_radial * slots;
        e.angular += row * n_angular * slots;
        e.angular_slope += 3 * row * n_angular * slots;
        e.direction += 3 * atom * slots;
        e.distance += atom * slots;
        return e;
    }
};

template <class T, int FIXED>
INLINE void contract(int64_t begin, int64_t end, int64_t rows, int64_t members, int64_t n_species,
                     const int64_t *first, const Edges<T> all, const T *gradient, T *edges) {
    const int64_t n_radial = FIXED ? FIXED : all.n_radial, width = n_species * n_radial, LM = all.n_angular;
    const int64_t slots = all.slots;
    for (int64_t i = begin; i < end; ++i) {
        const Edges<T> e = all.at(i);
        for (int64_t s = 0; s < n_species; ++s)
            for (int64_t m = first[s]; m < first[s + 1]; m += LANES<T>) {
                const int64_t n = first[s + 1] - m;
                vec<T> b[FIXED ? FIXED : MAX_RADIAL], slope[FIXED ? FIXED : MAX_RADIAL], d[3];
                for (int64_t k = 0; k < n_radial; ++k) {
                    b[k] = load(e.radial + k * slots + m, n);
                    slope[k] = load(e.radial_slope + k * slots + m, n);
                }
                for (int x = 0; x < 3; ++x) d[x] = load(e.direction + x * slots + m, n);
                vec<T> r = load(e.distance + m, n);
                for (int64_t k = n; k < LANES<T>; ++k) r[k] = 1;
                for (int64_t p = 0; p < members; ++p) {
                    vec<T> along = {}, across[3] = {};
                    for (int64_t lm = 0; lm < LM; ++lm) {
                        const T *g = gradient + ((p * LM + lm) * rows + i) * width + s * n_radial;
                        vec<T> h = {}, q = {};
                        for (int64_t k = 0; k < n_radial; ++k) {
                            h += g[k] * b[k];
                            q += g[k] * slope[k];
                        }
                        along += q * load(e.angular + lm * slots + m, n);
                        for (int x = 0; x < 3; ++x) across[x] += h * load(e.angular_slope + (x * LM + lm) * slots + m, n);
                    }
                    const vec<T> inverse = T(1) / r;
                    along -= (across[0] * d[0] + across[1] * d[1] + across[2] * d[2]) * inverse;
                    for (int x = 0; x < 3; ++x)
                        store(edges + ((i * members + p) * 3 + x) * slots + m, across[x] * inverse + d[x] * along, n);
                }
            }
    }
}

template <class T, int FIXED>
INLINE void contract_back(int64_t begin, int64_t end, int64_t rows, int64_t members, int64_t n_species,
                          const int64_t *first, const Edges<T> all, const T *back, T *gradient) {
    constexpr int LEN = FIXED ? FIXED : MAX_RADIAL;
    const int64_t n_radial = FIXED ? FIXED : all.n_radial, width = n_species * n_radial, LM = all.n_angular;
    const int64_t slots = all.slots;
    for (int64_t i = begin; i < end; ++i) {
        const Edges<T> e = all.at(i);
        for (int64_t p = 0; p < members; ++p)
            for (int64_t s = 0; s < n_species; ++s)
                // As many edges at a time as the first cache holds.
                for (int64_t m0 = first[s]; m0 < first[s + 1] || m0 == first[s]; m0 += 8 * LANES<T>) {
                    const int64_t m1 = first[s + 1] < m0 + 8 * LANES<T> ? first[s + 1] : m0 + 8 * LANES<T>;
                    vec<T> radius[8], force[8][3], b[8][LEN], slope[8][LEN];
                    int64_t tiles = 0;
                    for (int64_t m = m0; m < m1; m += LANES<T>, ++tiles) {
                        const int64_t n = m1 - m;
                        vec<T> r = load(e.distance + m, n), d[3], v[3], along = {};
                        for (int64_t k = n; k < LANES<T>; ++k) r[k] = 1;
                        for (int x = 0; x < 3; ++x) {
                            d[x] = load(e.direction + x * slots + m, n);
                            v[x] = load(back + ((i * members + p) * 3 + x) * slots + m, n);
                            along += d[x] * v[x];
                        }
                        radius[tiles] = along;
                        for (int x = 0; x < 3; ++x) force[tiles][x] = (v[x] - d[x] * along) / r;
                        for (int64_t k = 0; k < n_radial; ++k) {
                            b[tiles][k] = load(e.radial + k * slots + m, n);
                            slope[tiles][k] = load(e.radial_slope + k * slots + m, n);
                        }
                    }
                    for (int64_t lm = 0; lm < LM; ++lm) {
                        vec<T> sum[LEN] = {};
                        for (int64_t t = 0; t < tiles; ++t) {
                            const int64_t m = m0 + t * LANES<T>, n = m1 - m;
                            const vec<T> q = radius[t] * load(e.angular + lm * slots + m, n);
                            vec<T> h = {};
                            for (int x = 0; x < 3; ++x)
                                h += force[t][x] * load(e.angular_slope + (x * LM + lm) * slots + m, n);
                            for (int64_t k = 0; k < n_radial; ++k) sum[k] += h * b[t][k] + q * slope[t][k];
                        }
                        T *g = gradient + ((p * LM + lm) * rows + i) * width + s * n_radial;
                        for (int64_t k = 0; k < n_radial; ++k) g[k] = total<T>(sum[k]) + (m0 == first[s] ? T(0) : g[k]);
                    }
                }
    }
}

// Each edge pulls on both of its atoms, and on the cell.
template <class T>
INLINE void sum(int64_t rows, int64_t members, int64_t slots, const int64_t *neighbors, const int64_t *structure,
                const T *direction, const T *distance, const T *edges, T *forces, T *virials) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t p = 0; p < members; ++p) {
            const T *e = edges + (i * members + p) * 3 * slots;
            T *virial = virials + (structure[i] * members + p) * 9;
            vec<T> own[3] = {}, strain[3][3] = {};
            for (int64_t m = 0; m < slots; m += LANES<T>) {
                const int64_t n = slots - m;
                const vec<T> r = load(distance + i * slots + m, n);
                vec<T> pull[3];
                repeat<3>(WITH(x) { own[x] += pull[x] = load(e + x * slots + m, n); });
                repeat<3>(WITH(y) {
                    const vec<T> vector = r * load(direction + (3 * i + y) * slots + m, n);
                    repeat<3>(WITH(x) { strain[x][y] += pull[x] * vector; });
                });
                for (int64_t k = 0; k < LANES<T> && k < n; ++k) {
                    T *other = forces + (neighbors[i * slots + m + k] * members + p) * 3;
                    repeat<3>(WITH(x) { other[x] -= pull[x][k]; });
                }
            }
            repeat<3>(WITH(x) {
                forces[(i * members + p) * 3 + x] += total<T>(own[x]);
                repeat<3>(WITH(y) {
                    virial[3 * x + y] += T(0.5) * total<T>(strain[x][y]);
                    virial[3 * y + x] += T(0.5) * total<T>(strain[x][y]);
                });
            });
        }
}

template <class T>
INLINE void sum_back(int64_t begin, int64_t end, int64_t members, int64_t slots, const int64_t *neighbors,
                     const int64_t *structure, const T *direction, const T *distance, const T *forces,
                     const T *virials, T *edges) {
    for (int64_t i = begin; i < end; ++i)
        for (int64_t p = 0; p < members; ++p) {
            const T *f = forces + (i * members + p) * 3, *v = virials + (structure[i] * members + p) * 9;
            for (int64_t m = 0; m < slots; m += LANES<T>) {
                const int64_t n = slots - m;
                const vec<T> r = load(distance + i * slots + m, n);
                vec<T> pull[3];
                repeat<3>(WITH(x) { pull[x] = f[x] - vec<T>{}; });
                for (int64_t k = 0; k < LANES<T> && k < n; ++k) {
                    const T *other = forces + (neighbors[i * slots + m + k] * members + p) * 3;
                    repeat<3>(WITH(x) { pull[x][k] -= other[x]; });
                }
                repeat<3>(WITH(y) {
                    const vec<T> vector = r * load(direction + (3 * i + y) * slots + m, n);
                    repeat<3>(WITH(x) { pull[x] += T(0.5) * (v[3 * x + y] + v[3 * y + x]) * vector; });
                });
                repeat<3>(WITH(x) { store(edges + ((i * members + p) * 3 + x) * slots + m, pull[x], n); });
            }
        }
}

// f with the degree and the number of powers as constants.
template <class F> INLINE void choose(int l_max, int powers, F f) {
    using std::integral_constant;
    switch (10 * powers + l_max) {
    case 11: f(integral_constant<int, 1>(), integral_constant<int, 1>()); break;
    case 12: f(integral_constant<int, 2>(), integral_constant<int, 1>()); break;
    case 13: f(integral_constant<int, 3>(), integral_constant<int, 1>()); break;
    case 21: f(integral_constant<int, 1>(), integral_constant<int, 2>()); break;
    case 22: f(integral_constant<int, 2>(), integral_constant<int, 2>()); break;
    case 23: f(integral_constant<int, 3>(), integral_constant<int, 2>()); break;
    }
}

} // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" CLONES void form_##T(int64_t begin, int64_t end, int64_t width, int l_max, int powers,                  \
                                    const T *points, int n_points, const T *fields, T *products, T *invariants) {      \
        choose(l_max, powers, [&](auto l, auto n) __attribute__((always_inline)) {                                     \
            form<T, l, n>(begin, end, width, points, n_points, fields, products, invariants);                          \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" CLONES void derive_##T(int64_t begin, int64_t end, int64_t width, int l_max, int powers,                \
                                      int64_t members, const T *fields, const T *products, const T *slopes,            \
                                      T *gradient) {                                                                   \
        choose(l_max, powers, [&](auto l, auto n) __attribute__((always_inline)) {                                     \
            derive<T, l, n>(begin, end, width, members, fields, products, slopes, gradient);                           \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" CLONES void derive_back_##T(int64_t begin, int64_t end, int64_t width, int l_max, int powers,           \
                                           int64_t members, const T *points, int n_points, const T *fields,            \
                                           const T *products, const T *slopes, const T *back, T *back_fields,          \
                                           T *back_slopes) {                                                           \
        choose(l_max, powers, [&](auto l, auto n) __attribute__((always_inline)) {                                     \
            derive_back<T, l, n>(begin, end, width, members, points, n_points, fields, products, slopes, back,         \
                                 back_fields, back_slopes);                                                            \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" CLONES void contract_##T(int64_t begin, int64_t end, int64_t rows, int64_t members,                     \
                                        int64_t n_species, const int64_t *first, int64_t slots, int64_t n_radial,      \
                                        int64_t n_angular, const int64_t *shared, const T *radial,                     \
                                        const T *radial_slope, const T *angular, const T *angular_slope,               \
                                        const T *direction, const T *distance, const T *gradient, T *edges) {          \
        const Edges<T> all{radial,   radial_slope, angular, angular_slope, direction,                                  \
                           distance, shared,       slots,   n_radial,      n_angular};                                 \
        if (n_radial == 8) contract<T, 8>(begin, end, rows, members, n_species, first, all, gradient, edges);          \
        else contract<T, 0>(begin, end, rows, members, n_species, first, all, gradient, edges);                        \
    }                                                                                                                  \
    extern "C" CLONES void contract_back_##T(int64_t begin, int64_t end, int64_t rows, int64_t members,                \
                                             int64_t n_species, const int64_t *first, int64_t slots, int64_t n_radial, \
                                             int64_t n_angular, const int64_t *shared, const T *radial,                \
                                             const T *radial_slope, const T *angular, const T *angular_slope,          \
                                             const T *direction, const T *distance, const T *back, T *gradient) {      \
        const Edges<T> all{radial,   radial_slope, angular, angular_slope, direction,                                  \
                           distance, shared,       slots,   n_radial,      n_angular};                                 \
        if (n_radial == 8) contract_back<T, 8>(begin, end, rows, members, n_species, first, all, back, gradient);      \
        else contract_back<T, 0>(begin, end, rows, members, n_species, first, all, back, gradient);                    \
    }                                                                                                                  \
    extern "C" CLONES void sum_##T(int64_t, int64_t, int64_t rows, int64_t members, int64_t slots,                     \
                                   const int64_t *neighbors, const int64_t *structure, const T *direction,             \
                                   const T *distance, const T *edges, T *forces, T *virials) {                         \
        sum<T>(rows, members, slots, neighbors, structure, direction, distance, edges, forces, virials);               \
    }                                                                                                                  \
    extern "C" CLONES void sum_back_##T(int64_t begin, int64_t end, int64_t members, int64_t slots,                    \
                                        const int64_t *neighbors, const int64_t *structure, const T *direction,        \
                                        const T *distance, const T *forces, const T *virials, T *edges) {              \
        sum_back<T>(begin, end, members, slots, neighbors, structure, direction, distance, forces, virials, edges);    \
    }

EXPORT(float)
EXPORT(double)
