// exp of floats in registers, to about one unit in the last place; overflows to infinity, NaN stays.
// After Cephes (Moshier, netlib.org/cephes, expf.c): x = k ln 2 + r, a polynomial in r, times 2^k.
#pragma once

namespace perfkit::squeeze_excite {
namespace {

inline Lanes exp(Lanes x) {
  x = Lanes::clamp(x, -104.0f, 104.0f);
  const Lanes k = (x * Lanes::all(1.44269504088896341f)).rounded();
  Lanes r = Lanes::fma(k, Lanes::all(-0.693359375f), x);
  r = Lanes::fma(k, Lanes::all(2.12194440e-4f), r);
  constexpr float kCoefficients[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                     1.6666665459e-1f, 5.0000001201e-1f};
  Lanes tail = Lanes::all(1.9875691500e-4f);
  for (const float coefficient : kCoefficients) {
    tail = Lanes::fma(tail, r, Lanes::all(coefficient));
  }
  return Lanes::scale(Lanes::fma(tail, r * r, r) + Lanes::all(1.0f), k);
}

}  // namespace
}  // namespace perfkit::squeeze_excite
