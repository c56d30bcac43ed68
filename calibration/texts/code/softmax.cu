// Row-wise softmax, one block per row. Build: nvcc -O3 -arch=native softmax.cu -o softmax
#include <cfloat>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                                            \
    do {                                                                                       \
        cudaError_t status_ = (call);                                                          \
        if (status_ != cudaSuccess) {                                                          \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status_)); \
            std::exit(1);                                                                      \
        }                                                                                      \
    } while (0)

__inline__ __device__ float warp_max(float v) {
    for (int delta = 16; delta > 0; delta >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, delta));
    return v;
}

__inline__ __device__ float warp_sum(float v) {
    for (int delta = 16; delta > 0; delta >>= 1) v += __shfl_xor_sync(0xffffffffu, v, delta);
    return v;
}

template <int kWarps>
__global__ void softmax_rows(const float* __restrict__ in, float* __restrict__ out, int n_cols) {
    __shared__ float partial[kWarps];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const float* row = in + static_cast<size_t>(blockIdx.x) * n_cols;

    float top = -FLT_MAX;
    for (int c = threadIdx.x; c < n_cols; c += blockDim.x) top = fmaxf(top, row[c]);
    top = warp_max(top);
    if (lane == 0) partial[warp] = top;
    __syncthreads();
    top = warp_max(lane < kWarps ? partial[lane] : -FLT_MAX);
    __syncthreads();  // partial is used again below

    float sum = 0.0f;
    for (int c = threadIdx.x; c < n_cols; c += blockDim.x) sum += __expf(row[c] - top);
    sum = warp_sum(sum);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    sum = warp_sum(lane < kWarps ? partial[lane] : 0.0f);

    float* target = out + static_cast<size_t>(blockIdx.x) * n_cols;
    for (int c = threadIdx.x; c < n_cols; c += blockDim.x) target[c] = __expf(row[c] - top) / sum;
}

int main() {
    const int n_rows = 1024, n_cols = 4096;
    std::vector<float> host(static_cast<size_t>(n_rows) * n_cols);
    for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(i * 2654435761u % 1000u) / 100.0f;
    float *in = nullptr, *out = nullptr;
    const size_t bytes = host.size() * sizeof(float);
    CHECK(cudaMalloc(&in, bytes));
    CHECK(cudaMalloc(&out, bytes));
    CHECK(cudaMemcpy(in, host.data(), bytes, cudaMemcpyHostToDevice));
    softmax_rows<8><<<n_rows, 256>>>(in, out, n_cols);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(host.data(), out, bytes, cudaMemcpyDeviceToHost));
    double total = 0.0;
    for (int c = 0; c < n_cols; ++c) total += host[c];
    std::printf("first row sums to %.6f\n", total);
    CHECK(cudaFree(in));
    CHECK(cudaFree(out));
}
