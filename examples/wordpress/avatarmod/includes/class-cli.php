<?php
/**
 * `wp avatarmod`.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/**
 * Avatars of users, and the service that looks at them.
 */
final class Cli {

	/**
	 * Sends the avatars of all users that the service does not know yet.
	 *
	 * Ends with an error where some could not be sent; those are tried again by themselves.
	 *
	 * ## EXAMPLES
	 *
	 *     $ wp avatarmod send
	 */
	public function send(): void {
		$this->check();
		Schedule::look_at_all();
		$done = 0;
		while ( $found = Schedule::look_at_more() ) { // phpcs:ignore -- Ends with null or 0.
			$done += $found;
			/* translators: %s: a number. */
			\WP_CLI::log( sprintf( __( 'Users looked at: %s', 'avatarmod' ), number_format_i18n( $done ) ) );
		}
		$this->status();
		$unsent = Users_List::counts()[ Record::UNSENT ] ?? 0;
		if ( $unsent ) {
			/* translators: %s: a number. */
			\WP_CLI::error( sprintf( __( 'Not sent yet: %s. They are tried again by themselves.', 'avatarmod' ), number_format_i18n( $unsent ) ) );
		}
	}

	/**
	 * Asks for every verdict since the last time.
	 *
	 * ## EXAMPLES
	 *
	 *     $ wp avatarmod reconcile
	 */
	public function reconcile(): void {
		$this->check();
		$news  = Reconciler::run();
		$error = Settings::noted( 'reconcile_error' ) ?: Settings::noted( 'handler_error' );
		if ( $error ) {
			\WP_CLI::error( $error );
		}
		/* translators: %s: a number. */
		\WP_CLI::success( sprintf( __( 'Verdicts taken over: %s', 'avatarmod' ), number_format_i18n( $news ) ) );
	}

	/**
	 * Says how many avatars are in which state.
	 */
	public function status(): void {
		foreach ( Settings_Page::facts() as $name => $fact ) {
			\WP_CLI::log( "$name: $fact" );
		}
	}

	/**
	 * Tests the connection.
	 */
	public function test(): void {
		\WP_CLI::success( $this->check() );
	}

	/** What the service says; the command ends here where it does not answer as it should. */
	private function check(): string {
		list( $is_well, $sentence ) = Settings_Page::try_connection();
		if ( ! $is_well ) {
			\WP_CLI::error( $sentence );
		}
		return $sentence;
	}
}
