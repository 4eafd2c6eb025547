"""Forced aligners: when is each word spoken?"""
