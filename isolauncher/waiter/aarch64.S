/* SPDX-License-Identifier: GPL-3.0-or-later

   What a sandbox's init becomes, for 64-bit ARM: a whole file, its head included. See
   __init__.py for what it is and how this becomes bytes; x86_64.S is the same.

   To read it: a register (x0, x1, ...) is a variable, and w0, w1, ... its lower 32 bits;
   xzr is always 0. "mov a, b" is a = b; "ldr a, [b]" reads memory at b and "str a, [b]"
   writes it; ldrb and strb do so with one byte. [b], #1 adds 1 to b afterwards, and
   [b, #-1]! takes 1 from it before. A call of the kernel has its number in x8, its
   arguments in x0 to x5, and its answer in x0: below zero it is an errno. All other
   registers survive it.

   Begun with:   isolauncher: init(ID)  STEM  RECORD  CHANNEL
   The stack holds how many words these are and where each is. */

        .text

/* The head of the file (elf(5)). */
file:   .byte   0x7f, 'E', 'L', 'F'
        .byte   2, 1, 1, 0              // 64 bits, little endian, version 1, System V
        .quad   0
        .short  3                       // ET_DYN: runs wherever it is put
        .short  183                     // EM_AARCH64
        .long   1
        .quad   start - file            // where it begins
        .quad   parts - file
        .quad   0                       // no sections
        .long   0
        .short  64, 56, 2, 0, 0, 0      // size of this head, and of two parts

/* One part is in memory, all of the file: read and execute, never written. The stack
   may be written and not be executed. A page may have 64 kB here. */
parts:  .long   1, 5                    // PT_LOAD, PF_R | PF_X
        .quad   0, 0, 0
        .quad   end - file, end - file
        .quad   0x10000
        .long   0x6474e551, 6           // PT_GNU_STACK, PF_R | PF_W
        .quad   0, 0, 0, 0, 0, 16

start:  mov     x0, #4                  // prctl(PR_SET_DUMPABLE, 0): it is not, unless
        mov     x1, #0                  // fs.suid_dumpable says otherwise
        mov     x8, #167
        svc     #0

        ldr     x9, [sp]
        cmp     x9, #4                  // other words than the four: give up
        b.ne    give_up

        mov     x0, #15                 // prctl(PR_SET_NAME, "init(ID)"), of which the
        ldr     x1, [sp, #8]            // kernel takes 15 bytes: the title without
        add     x1, x1, #13             // "isolauncher: "
        mov     x8, #167
        svc     #0

        ldr     x1, [sp, #16]
        bl      number
        mov     w19, w0                 // w19: the stem's pid
        ldr     x1, [sp, #24]
        bl      number
        mov     w20, w0                 // w20: the record, or -1
        ldr     x1, [sp, #32]
        bl      number
        mov     w21, w0                 // w21: the channel

        sub     sp, sp, #128            // room: the status below, the line at the end

wait:   mov     x0, #-1                 // wait4(-1, &status, 0, NULL)
        mov     x1, sp
        mov     x2, #0
        mov     x3, #0
        mov     x8, #260
        svc     #0
        cmp     w0, w19
        b.eq    ended
        cmp     w0, #0                  // an orphan, which it has inherited: go on
        b.gt    wait
        cmn     w0, #4                  // EINTR: so too
        b.eq    wait
give_up:
        mov     x0, #125                // nothing to wait for: never turn in circles
        b       leave

/* The line is written from its end: "}\n", the status digit by digit, what is before. */
ended:  ldr     w0, [sp]
        add     x22, sp, #126           // x22: where the line begins so far
        mov     w1, #0x0a7d             // "}\n", the lower byte first
        strh    w1, [x22]
        mov     w2, #10
digit:  udiv    w1, w0, w2
        msub    w3, w1, w2, w0          // w3 = w0 - w1 * 10: what is left over
        add     w3, w3, #'0'
        strb    w3, [x22, #-1]!
        mov     w0, w1
        cbnz    w0, digit
        adr     x1, words_end
        mov     w2, #words_end - words
copy:   ldrb    w3, [x1, #-1]!
        strb    w3, [x22, #-1]!
        subs    w2, w2, #1
        b.ne    copy
        add     x23, sp, #128
        sub     x23, x23, x22           // x23: its length

/* The record before the message; whether either arrives, this process ends. */
        tbnz    w20, #31, tell          // below zero: there is none
        mov     w0, w20                 // write(record, line, length)
        mov     x1, x22
        mov     x2, x23
        mov     x8, #64
        svc     #0
tell:   mov     w0, w21                 // sendto(channel, line, length, MSG_NOSIGNAL,
        mov     x1, x22                 //        NULL, 0)
        mov     x2, x23
        mov     x3, #0x4000
        mov     x4, #0
        mov     x5, #0
        mov     x8, #206
        svc     #0
        mov     x0, #0

leave:  mov     x8, #94                 // exit_group(x0)
        svc     #0

/* w0 = the number that is written at x1. What was read is erased, so that ps shows the
   title alone. */
number: mov     w0, #0
        mov     w3, #0                  // w3: 1 after a minus
        mov     w4, #10
next:   ldrb    w2, [x1]
        strb    wzr, [x1], #1
        cmp     w2, #'-'
        b.eq    minus
        subs    w2, w2, #'0'
        b.lo    done                    // below '0': the zero byte at its end
        madd    w0, w0, w4, w2          // w0 = w0 * 10 + w2
        b       next
minus:  mov     w3, #1
        b       next
done:   cbz     w3, plus
        neg     w0, w0
plus:   ret

words:  .ascii  "{\"event\": \"exited\", \"status\": "
words_end:
end:
