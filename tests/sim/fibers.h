/* Threads of the program's own: each goes on where it was left, when it is switched to. */
#ifndef FIBERS_H
#define FIBERS_H

#include <stddef.h>

#if defined(__x86_64__)

/* All that is kept of one that does not run: the rest lies on its stack. */
typedef struct {
    void *top;
} context_t;

#else

#include <ucontext.h>
typedef ucontext_t context_t;

#endif

/* The first switch to `context` calls body(), which never returns, on the stack. */
void context_begin(context_t *context, char *stack, size_t nbytes, void (*body)(void));

/* Leave this one, to be switched to as `from`, and go on with `to`. */
void context_switch(context_t *from, context_t *to);

#endif
