/* What the hardware can do: benchmarks by hand, in blocks that stay in registers and the first cache, on all
   threads that OMP_NUM_THREADS allows. Compiled with -ffast-math, so that the loops over a block become vector code. */

#include <math.h>
#include <stdint.h>

#define BLOCK 64

/* e^z for |z| < 700, to about an ulp: z = k ln 2 + r with |r| <= ln 2 / 2, and a polynomial for e^r that errs by
   1.3e-17 (1 + r + r^2 q(r), q of degree 9 and least largest error). */
static inline double exponential(double z)
{
    double k = __builtin_rint(z * 1.4426950408889634);
    double r = z - k * 0.69314718036912382;
    r -= k * 1.9082149292705877e-10;
    double p = 2.510038549551032e-08;
    p = p * r + 2.7620088445409746e-07;
    p = p * r + 2.7557268459997064e-06;
    p = p * r + 2.4801521295954376e-05;
    p = p * r + 1.9841269863053618e-04;
    p = p * r + 1.3888888917213717e-03;
    p = p * r + 8.333333333330062e-03;
    p = p * r + 4.166666666662413e-02;
    p = p * r + 1.6666666666666669e-01;
    p = p * r + 0.5;
    p = p * r + 1;
    p = p * r + 1;
    union { int64_t bits; double value; } power = { ((int64_t)k + 1023) << 52 };
    return p * power.value;
}

static inline double sigmoid(double z) { return 1 / (1 + exponential(-z)); }

/* Doya's neuron x' = (1 - epsilon) x + epsilon sigmoid(w x + b) at many biases: every step of the transient, then the
   kept states, bias by bias. */
void orbit_diagram(long num, const double *biases, double w, double epsilon, double x0, long num_transient,
                   long num_kept, double *kept)
{
#pragma omp parallel for schedule(static)
    for (long start = 0; start < num; start += BLOCK) {
        int size = num - start < BLOCK ? (int)(num - start) : BLOCK;
        double x[BLOCK], b[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            x[i] = x0;
            b[i] = i < size ? biases[start + i] : 0;
        }
        for (long t = 0; t < num_transient + num_kept; t++) {
#pragma omp simd
            for (int i = 0; i < BLOCK; i++)
                x[i] = (1 - epsilon) * x[i] + epsilon * sigmoid(w * x[i] + b[i]);
            if (t >= num_transient)
                for (int i = 0; i < size; i++)
                    kept[(start + i) * num_kept + t - num_transient] = x[i];
        }
    }
}

/* (sigmoid(x_T) - target)^2 of the unit x' = w sigmoid(x) + b, and its gradient in (w, b), which is carried along. */
void error_surface(long num, const double *weights, const double *biases, double x0, double target, long num_steps,
                   double *error, double *gradient)
{
#pragma omp parallel for schedule(static)
    for (long start = 0; start < num; start += BLOCK) {
        int size = num - start < BLOCK ? (int)(num - start) : BLOCK;
        double x[BLOCK], x_w[BLOCK], x_b[BLOCK], w[BLOCK], b[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            x[i] = x0;
            x_w[i] = x_b[i] = 0;
            w[i] = i < size ? weights[start + i] : 0;
            b[i] = i < size ? biases[start + i] : 0;
        }
        for (long t = 0; t < num_steps; t++) {
#pragma omp simd
            for (int i = 0; i < BLOCK; i++) {
                double y = sigmoid(x[i]);
                double slope = w[i] * y * (1 - y);
                x[i] = w[i] * y + b[i];
                x_w[i] = slope * x_w[i] + y;
                x_b[i] = slope * x_b[i] + 1;
            }
        }
        for (int i = 0; i < size; i++) {
            double y = sigmoid(x[i]);
            double slope = 2 * (y - target) * y * (1 - y);
            error[start + i] = (y - target) * (y - target);
            gradient[2 * (start + i)] = slope * x_w[i];
            gradient[2 * (start + i) + 1] = slope * x_b[i];
        }
    }
}

/* One orbit of Doya's neuron, x' = (1 - epsilon) x + epsilon (sigmoid(w x + b) + u): each step waits for the one before
   it, so there is nothing to vectorise, and libm's exponential is the fastest. */
void orbit(long num_steps, const double *pushes, double w, double b, double epsilon, double x, double *states)
{
    states[0] = x;
    for (long t = 0; t < num_steps; t++) {
        x = (1 - epsilon) * x + epsilon * (1 / (1 + exp(-(w * x + b))) + pushes[t]);
        states[t + 1] = x;
    }
}
