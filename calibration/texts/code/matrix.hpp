// Fixed-size matrices whose dimensions are checked by the compiler (C++20).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <stdexcept>

namespace lin {

template <typename T>
concept Scalar = std::floating_point<T> || std::integral<T>;

template <Scalar T, std::size_t R, std::size_t C>
    requires(R > 0 && C > 0)
class Matrix {
public:
    using value_type = T;
    static constexpr std::size_t rows = R, cols = C;

    constexpr Matrix() = default;

    constexpr Matrix(std::initializer_list<T> values) {
        if (values.size() != R * C) throw std::invalid_argument("Matrix: wrong number of values");
        std::copy(values.begin(), values.end(), data_.begin());
    }

    [[nodiscard]] static constexpr Matrix identity()
        requires(R == C)
    {
        Matrix m;
        for (std::size_t i = 0; i < R; ++i) m(i, i) = T{1};
        return m;
    }

    constexpr T& operator()(std::size_t r, std::size_t c) noexcept { return data_[r * C + c]; }
    constexpr const T& operator()(std::size_t r, std::size_t c) const noexcept { return data_[r * C + c]; }
    friend constexpr bool operator==(const Matrix&, const Matrix&) = default;

    [[nodiscard]] constexpr auto transposed() const -> Matrix<T, C, R> {
        Matrix<T, C, R> out;
        for (std::size_t r = 0; r < R; ++r)
            for (std::size_t c = 0; c < C; ++c) out(c, r) = (*this)(r, c);
        return out;
    }

private:
    std::array<T, R * C> data_{};
};

// The inner dimension has to agree, or there is no such function.
template <Scalar T, std::size_t R, std::size_t K, std::size_t C>
constexpr Matrix<T, R, C> operator*(const Matrix<T, R, K>& a, const Matrix<T, K, C>& b) {
    Matrix<T, R, C> out;
    for (std::size_t r = 0; r < R; ++r)
        for (std::size_t k = 0; k < K; ++k)
            for (std::size_t c = 0; c < C; ++c) out(r, c) += a(r, k) * b(k, c);
    return out;
}

template <Scalar T, std::size_t N>
constexpr Matrix<T, N, N> power(Matrix<T, N, N> base, unsigned exponent) {
    auto result = Matrix<T, N, N>::identity();
    for (; exponent; exponent >>= 1, base = base * base)
        if (exponent & 1u) result = result * base;
    return result;
}

// Fibonacci numbers at compile time, as a test that all of the above is constexpr.
static_assert(power(Matrix<long long, 2, 2>{1, 1, 1, 0}, 50)(0, 1) == 12'586'269'025LL);

}  // namespace lin
