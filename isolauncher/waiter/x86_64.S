/* SPDX-License-Identifier: GPL-3.0-or-later

   What a sandbox's init becomes, for x86-64: a whole file, its head included. See
   __init__.py for what it is and how this becomes bytes; aarch64.S is the same.

   To read it: a register (rax, rdi, ...) is a variable, and eax, edi, ... its lower 32
   bits. "mov a, b" is a = b; "xor a, a" is a = 0; "lea a, [b]" makes a the address b;
   [b] is what is in memory there. A call of the kernel has its number in eax, its
   arguments in rdi, rsi, rdx, r10, r8 and r9, and its answer in rax: below zero it is
   an errno. rcx and r11 do not survive it, all others do.

   Begun with:   isolauncher: init(ID)  STEM  RECORD  CHANNEL
   The stack holds how many words these are and where each is. */

        .intel_syntax noprefix
        .text

/* The head of the file (elf(5)). */
file:   .byte   0x7f, 'E', 'L', 'F'
        .byte   2, 1, 1, 0              # 64 bits, little endian, version 1, System V
        .quad   0
        .short  3                       # ET_DYN: runs wherever it is put
        .short  62                      # EM_X86_64
        .long   1
        .quad   start - file            # where it begins
        .quad   parts - file
        .quad   0                       # no sections
        .long   0
        .short  64, 56, 2, 0, 0, 0      # size of this head, and of two parts

/* One part is in memory, all of the file: read and execute, never written. The stack
   may be written and not be executed. */
parts:  .long   1, 5                    # PT_LOAD, PF_R | PF_X
        .quad   0, 0, 0
        .quad   end - file, end - file
        .quad   0x1000
        .long   0x6474e551, 6           # PT_GNU_STACK, PF_R | PF_W
        .quad   0, 0, 0, 0, 0, 16

start:  mov     edi, 4                  # prctl(PR_SET_DUMPABLE, 0): it is not, unless
        xor     esi, esi                # fs.suid_dumpable says otherwise
        mov     eax, 157
        syscall

        cmp     dword ptr [rsp], 4      # other words than the four: give up
        jne     give_up

        mov     edi, 15                 # prctl(PR_SET_NAME, "init(ID)"), of which the
        mov     rsi, [rsp + 8]          # kernel takes 15 bytes: the title without
        add     rsi, 13                 # "isolauncher: "
        mov     eax, 157
        syscall

        mov     rsi, [rsp + 16]
        call    number
        mov     ebx, eax                # ebx: the stem's pid
        mov     rsi, [rsp + 24]
        call    number
        mov     ebp, eax                # ebp: the record, or -1
        mov     rsi, [rsp + 32]
        call    number
        mov     r12d, eax               # r12d: the channel

        sub     rsp, 128                # room: the status below, the line at the end

wait:   mov     edi, -1                 # wait4(-1, &status, 0, NULL)
        mov     rsi, rsp
        xor     edx, edx
        xor     r10d, r10d
        mov     eax, 61
        syscall
        cmp     eax, ebx
        je      ended
        test    eax, eax                # an orphan, which it has inherited: go on
        jg      wait
        cmp     eax, -4                 # EINTR: so too
        je      wait
give_up:
        mov     edi, 125                # nothing to wait for: never turn in circles
        jmp     leave

/* The line is written from its end: "}\n", the status digit by digit, what is before. */
ended:  mov     eax, [rsp]
        lea     rdi, [rsp + 126]        # rdi: where the line begins so far
        mov     word ptr [rdi], 0x0a7d  # "}\n", the lower byte first
        mov     ecx, 10
digit:  xor     edx, edx
        div     ecx                     # eax = eax / 10, edx = what is left over
        add     edx, '0'
        dec     rdi
        mov     [rdi], dl
        test    eax, eax
        jnz     digit
        mov     ecx, words_end - words
        sub     rdi, rcx
        mov     r13, rdi                # r13: the line
        lea     rsi, [rip + words]
        rep movsb                       # copy rcx bytes from rsi to rdi
        lea     r14, [rsp + 128]
        sub     r14, r13                # r14: its length

/* The record before the message; whether either arrives, this process ends. */
        test    ebp, ebp
        js      tell                    # below zero: there is none
        mov     edi, ebp                # write(record, line, length)
        mov     rsi, r13
        mov     rdx, r14
        mov     eax, 1
        syscall
tell:   mov     edi, r12d               # sendto(channel, line, length, MSG_NOSIGNAL,
        mov     rsi, r13                #        NULL, 0)
        mov     rdx, r14
        mov     r10d, 0x4000
        xor     r8d, r8d
        xor     r9d, r9d
        mov     eax, 44
        syscall
        xor     edi, edi

leave:  mov     eax, 231                # exit_group(edi)
        syscall

/* eax = the number that is written at rsi. What was read is erased, so that ps shows
   the title alone. */
number: xor     eax, eax
        xor     edi, edi                # edi: 1 after a minus
next:   movzx   ecx, byte ptr [rsi]
        mov     byte ptr [rsi], 0
        inc     rsi
        cmp     ecx, '-'
        je      minus
        sub     ecx, '0'
        jb      done                    # below '0': the zero byte at its end
        imul    eax, eax, 10
        add     eax, ecx
        jmp     next
minus:  mov     edi, 1
        jmp     next
done:   test    edi, edi
        jz      plus
        neg     eax
plus:   ret

words:  .ascii  "{\"event\": \"exited\", \"status\": "
words_end:
end:
