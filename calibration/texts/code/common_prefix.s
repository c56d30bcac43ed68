# size_t common_prefix(const char *a, const char *b, size_t n): how many leading bytes agree. x86-64 System V, AVX2.
        .text
        .globl  common_prefix
        .type   common_prefix, @function
        .p2align 4
common_prefix:
        xorl    %eax, %eax                  # bytes known to agree
        movq    %rdx, %rcx
        andq    $-32, %rcx                  # end of the whole vectors
        jz      .Ltail
.Lvector:
        vmovdqu (%rdi,%rax), %ymm0
        vpcmpeqb (%rsi,%rax), %ymm0, %ymm1
        vpmovmskb %ymm1, %r8d
        notl    %r8d                        # a set bit is a byte that differs
        testl   %r8d, %r8d
        jnz     .Lfound
        addq    $32, %rax
        cmpq    %rcx, %rax
        jb      .Lvector
        vzeroupper
.Ltail:
        cmpq    %rdx, %rax
        jae     .Ldone
        movb    (%rdi,%rax), %r9b
        cmpb    (%rsi,%rax), %r9b
        jne     .Ldone
        incq    %rax
        jmp     .Ltail
.Lfound:
        bsfl    %r8d, %r8d
        addq    %r8, %rax
        vzeroupper
.Ldone:
        ret
        .size   common_prefix, .-common_prefix
        .section .note.GNU-stack,"",@progbits
