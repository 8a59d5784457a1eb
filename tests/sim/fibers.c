/* Switching between fibers. The C library's swapcontext() was half of a run's time: it asks the
   system for the signals each time, and AddressSanitizer clears what it knows of the whole stack. */
#include "fibers.h"

#ifndef SIM_THREADS

#if defined(__x86_64__)

#include <stdint.h>

/* What a function must leave as it was goes to the stack; the rest is the caller's own care. */
__asm__(
    ".text\n"
    ".globl context_switch\n"
    ".type context_switch, @function\n"
    "context_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq (%rsi), %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size context_switch, .-context_switch\n");

void context_begin(context_t *context, char *stack, size_t nbytes, void (*body)(void))
{
    /* As if body() had been called by nobody, aligned as the ABI has it: six registers, where it
       begins, and where it would return to. */
    uintptr_t *top = (uintptr_t *)((uintptr_t)(stack + nbytes) & ~(uintptr_t)15) - 8;
    for (int i = 0; i < 8; i++)
        top[i] = 0;
    top[6] = (uintptr_t)body;
    context->top = top;
}

#else

void context_begin(context_t *context, char *stack, size_t nbytes, void (*body)(void))
{
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = nbytes;
    makecontext(context, body, 0);
}

void context_switch(context_t *from, context_t *to)
{
    swapcontext(from, to);
}

#endif

#endif
